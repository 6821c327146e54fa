"""TensorBoard's event files, which go on where a resumed run goes on."""

import time
from pathlib import Path

import keras
import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

_SECONDS_BETWEEN_FLUSHES = 5


class EventFile:
    """One file in the folder of one of TensorBoard's runs, made when there is something to write.

    TensorBoard wants one writer a folder at a time, and reads the files of a folder in the order of their making. Each
    file begins with the mark of a session that starts at `first_step`: what older files have at this step or later is
    of a run that was killed, and is dropped by readers in favour of what is written here. (TensorBoard's default data
    server knows no marks; there a point drops those of its own series at its step or later.)

    Args:
        folder: of this file and of those of earlier sessions.
        first_step: int, the first step that this session may write again.

    Reference: https://www.tensorflow.org/api_docs/python/tf/compat/v1/SessionLog
    """

    def __init__(self, folder, first_step):
        self._folder = Path(folder)
        self._first_step = first_step
        self._writer = None

    def open(self):
        """Makes the file, so that TensorBoard takes the folder for a run."""
        if self._writer is None:
            self._writer = EventFileWriter(str(self._folder), flush_secs=_SECONDS_BETWEEN_FLUSHES)
            self._write(step=self._first_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step, values):
        """Writes summaries.

        Args:
            step: int, the batches so far.
            values: list of what `scalar`, `histogram` and `image` made, or a `Summary` of TensorBoard's plugins.
        """
        summary = values if isinstance(values, Summary) else Summary(value=values)
        if summary.value:
            self.open()
            self._write(step=step, summary=summary)

    def add_graph(self, graph):
        """Writes a graph of TensorFlow."""
        self.open()
        self._write(step=0, graph_def=graph.as_graph_def().SerializeToString())

    def flush(self):
        """Leaves nothing that a killed process would take with it."""
        if self._writer is not None:
            self._writer.flush()

    def close(self):
        """Ends the file; the next summary begins another one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, **event):
        self._writer.add_event(Event(wall_time=time.time(), **event))


def scalar(tag, value):
    """A number at a step."""
    return Summary.Value(tag=tag, simple_value=float(value))


def scalars(prefix, logs):
    """Those of some logs that are numbers: a metric may be a matrix."""
    return [scalar(f"{prefix}{name}", value) for name, value in logs.items() if np.ndim(value) == 0]


def histogram(tag, array, buckets=30):
    """The distribution of the finite values of an array."""
    values = np.asarray(array, np.float32).reshape(-1)
    values = values[np.isfinite(values)]
    if not values.size:
        values = np.zeros(1, np.float32)
    counts, edges = np.histogram(values, buckets)
    exact = values.astype(np.float64)
    proto = HistogramProto(
        min=exact.min(),
        max=exact.max(),
        num=exact.size,
        sum=exact.sum(),
        sum_squares=np.square(exact).sum(),
        bucket_limit=edges[1:].tolist(),
        bucket=counts.tolist(),
    )
    return Summary.Value(tag=tag, histo=proto)


def image(tag, png, width, height):
    """A picture.

    Args:
        tag: str.
        png: bytes, as in a PNG file.
        width: int, in pixels.
        height: int, in pixels.
    """
    return Summary.Value(
        tag=tag, image=Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=4)
    )


class EventCallback(keras.callbacks.Callback):
    """What the callbacks of `training.fit` that write event files have in common.

    Points stand at the number of batches so far, which a resumed run goes on counting. All that is written before a
    checkpoint is on the disk when the checkpoint is.

    Args:
        folder: of the run; each callback has a folder of its own in it.

    Raises:
        ValueError: if it cannot be a folder.
    """

    chief_only = True
    # Names of its folders, with whether points are written at batches; the others are written when an epoch ends.
    folders: dict[str, bool] = {}  # noqa: RUF012

    def __init__(self, folder):
        super().__init__()
        self.folder = check_folder("folder", folder)
        self.progress = None
        self.files = {}

    def set_progress(self, progress):
        """Takes the run's `Progress`, which the run keeps up to date."""
        self.progress = progress

    def on_train_begin(self, logs=None):
        if self.progress is None:
            raise RuntimeError(
                f"{type(self).__name__} is for keras_attention.training.fit, which tells it where the run is, and not "
                "for Keras's own"
            )
        # The end of an epoch that has begun is still to come.
        done = {True: self.progress.step, False: self.progress.step - self.progress.epoch_steps}
        self.files = {
            name: EventFile(self.folder / name, done[by_batch] + 1) for name, by_batch in self.folders.items()
        }

    def on_train_end(self, logs=None):
        for file in self.files.values():
            file.close()

    def get_state(self):
        """Called before each checkpoint: nothing to keep, but to write."""
        for file in self.files.values():
            file.flush()
        return {}


def check_folder(name, folder):
    """The path of a folder that is there or can be made; the name is of the argument, for the message."""
    folder = Path(folder)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"`{name}` must be a folder, and {there} is a file. Received: {name}={str(folder)!r}")
    return folder
