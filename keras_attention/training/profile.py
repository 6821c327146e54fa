"""Where the time of some steps goes, by TensorFlow's profiler."""

import keras
import tensorflow as tf

from keras_attention.training.event_file import check_folder


class Profile(keras.callbacks.Callback):
    """A callback of `fit` that records the operations of some steps, on the CPU and on GPUs.

    The trace goes to "profile/plugins/profile" in the folder. TensorBoard shows it where the package
    tensorboard-plugin-profile is installed, which nothing else here needs. The first step of a run builds its graph:
    begin with a later one.

    Args:
        folder: of the run, such as the `log_folder` of the config.
        first_step, last_step: int, which batches to record, counted from 1 over all epochs; few, since a trace is
            large.

    Raises:
        ValueError: if the steps are no range.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import tensorflow as tf
    >>> import tempfile
    >>> from pathlib import Path
    >>> from keras_attention.training import Profile, TrainingConfig, fit
    >>> def build():
    ...     model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    ...     model.compile("adam", "mse")
    ...     return model
    >>> folder = tempfile.mkdtemp()
    >>> data = tf.data.Dataset.from_tensor_slices((np.ones((8, 1)), np.ones((8, 1)))).batch(2)
    >>> _ = fit(build, data, config=TrainingConfig(progress=False), callbacks=[Profile(folder, 3, 4)])
    >>> len(list(Path(folder).glob("profile/plugins/profile/*/*.xplane.pb")))
    1

    Reference: https://www.tensorflow.org/guide/profiler
    """

    chief_only = True

    def __init__(self, folder, first_step, last_step):
        super().__init__()
        for name, step, least in (("first_step", first_step, 1), ("last_step", last_step, first_step)):
            if not isinstance(step, int) or isinstance(step, bool) or step < least:
                raise ValueError(f"`{name}` must be an integer of at least {least}. Received: {name}={step!r}")
        self.folder = check_folder("folder", folder)
        self.first_step = first_step
        self.last_step = last_step
        self._mark = None

    def set_progress(self, progress):
        """Takes the run's `Progress`, which the run keeps up to date."""
        self.progress = progress

    def on_train_begin(self, logs=None):
        self._is_on = False

    def on_train_batch_begin(self, batch, logs=None):
        step = self.progress.step + 1
        if step == self.first_step:
            tf.profiler.experimental.start(str(self.folder / "profile"))
            self._is_on = True
        if self._is_on:
            self._mark = tf.profiler.experimental.Trace("train", step_num=step, _r=1)
            self._mark.__enter__()

    def on_train_batch_end(self, batch, logs=None):
        if self._is_on:
            self._mark.__exit__(None, None, None)
            if self.progress.step == self.last_step:
                self._stop()

    def on_train_end(self, logs=None):
        if self._is_on:
            self._stop()

    def _stop(self):
        tf.profiler.experimental.stop()
        self._is_on = False
