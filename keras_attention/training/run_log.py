"""What every run with a `log_folder` writes: curves, weights and the graph for TensorBoard, and a table.

Keras's TensorBoard callback would not do: it counts batches from 0 in every process, so that a resumed run writes over
its beginning, puts epochs, batches and validation on three different axes, and knows nothing of examples a second.
"""

import csv
import os
import time

import keras
import numpy as np
import tensorflow as tf

from keras_attention.training.event_file import EventCallback, check_folder, histogram, scalars


class RunLog(EventCallback):
    """Curves for TensorBoard, under the names that Keras gives them, all at the number of batches so far.

    In "steps", at every batch: `batch_loss` and `batch_gradient_norm`, of this batch alone; the metrics, of the epoch
    so far; the learning rate, and what a second brings. In "train" and "validation", at the end of every epoch: what
    the history has, as `epoch_loss` and so on. In "train" also the graph of a training step, and the weights.
    """

    folders = {"steps": True, "train": False, "validation": False}  # noqa: RUF012

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._graph_is_due = self.progress.step == 0 or not any((self.folder / "train").glob("*tfevents*"))

    def on_epoch_begin(self, epoch, logs=None):
        self._begun = self._before = self._position()
        self._rate = float(self.model.optimizer.learning_rate)

    def on_train_batch_begin(self, batch, logs=None):
        # Before the step: afterwards a schedule tells the rate of the next one.
        self._rate = float(self.model.optimizer.learning_rate)

    def on_train_batch_end(self, batch, logs=None):
        if self._graph_is_due:
            self.files["train"].add_graph(self.model.train_function.get_concrete_function().graph)
            self._graph_is_due = False
        before, self._before = self._before, self._position()
        _, _, sums = self._before
        of_this_batch = {
            name: (total - before[2].get(name, (0.0, 0.0))[0]) / max(rows - before[2].get(name, (0.0, 0.0))[1], 1.0)
            for name, (total, rows) in sums.items()
        }
        values = {**logs, **of_this_batch, "learning_rate": self._rate, **_speed(before, self._before)}
        self.files["steps"].add(self.progress.step, scalars("batch_", values))

    def on_epoch_end(self, epoch, logs=None):
        step = self.progress.step
        train = {name: value for name, value in logs.items() if not name.startswith("val_")}
        train["learning_rate"] = self._rate
        if self._before[0] > self._begun[0]:
            train.update(_speed(self._begun, self._before))
        validation = {name.removeprefix("val_"): value for name, value in logs.items() if name.startswith("val_")}
        self.files["train"].add(step, scalars("epoch_", train))
        self.files["validation"].add(step, scalars("epoch_", validation))
        weights = {w.path: w for w in self.model.weights if tf.as_dtype(w.dtype).is_floating}
        self.files["train"].add(step, [histogram(path, np.array(weight)) for path, weight in weights.items()])

    def _position(self):
        """The batches and the time so far, and the sums of the epoch's losses and of its rows."""
        sums = {name: tuple(pair) for name, pair in self.progress.sums.items()}
        return self.progress.step, time.perf_counter(), sums


def _speed(before, after):
    """What a second brought between two positions in an epoch."""
    seconds = after[1] - before[1]
    rows = after[2]["loss"][1] - before[2].get("loss", (0.0, 0.0))[1]
    return {
        "steps_per_second": (after[0] - before[0]) / seconds,
        "examples_per_second": rows / seconds,
    }


class HistoryTable(keras.callbacks.Callback):
    """The history as `history.csv`, a line for each epoch, whole after every epoch and in a resumed run as well.

    Args:
        folder: where it goes.
    """

    chief_only = True

    def __init__(self, folder):
        super().__init__()
        self._path = check_folder("folder", folder) / "history.csv"

    def on_train_begin(self, logs=None):
        self._read()  # What is not to be written over is better found before the first epoch.

    def on_epoch_end(self, epoch, logs=None):
        # A run that was killed may have written epochs that are done again.
        lines = [*(line for line in self._read() if int(line["epoch"]) < epoch), {"epoch": epoch, **logs}]
        names = dict.fromkeys(name for line in lines for name in line)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".writing")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(names), restval="")
            writer.writeheader()
            writer.writerows(lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)

    def _read(self):
        if not self._path.exists():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if "epoch" not in (reader.fieldnames or []):
                raise ValueError(
                    f"{self._path} is no history of a run: it has no column `epoch`. Give `log_folder` another folder "
                    f"or move the file away. Received: columns {', '.join(reader.fieldnames or [])}"
                )
            return list(reader)
