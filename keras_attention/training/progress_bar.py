"""A line that says how far an epoch is, how fast it goes, and how long it takes yet."""

import shutil
import sys
import time

import keras
import numpy as np

_SECONDS_ON_A_TERMINAL, _SECONDS_IN_A_FILE = 0.1, 30.0


class ProgressBar(keras.callbacks.Callback):
    """Prints a line that is written over on terminals and in notebooks, and every half a minute a new one elsewhere.

    Keras's bar takes the batches of an epoch that were done before a run was resumed for its own, which makes the time
    that is left far too short, and writes over its line in files as well.
    """

    chief_only = True

    def set_progress(self, progress):
        """Takes the run's `Progress`, which the run keeps up to date."""
        self._progress = progress

    def on_train_begin(self, logs=None):
        self._total = self.params["steps"]
        self._writes_over = sys.stdout.isatty() or "ipykernel" in sys.modules
        self._width = 0

    def on_epoch_begin(self, epoch, logs=None):
        print(f"Epoch {epoch + 1}/{self.params['epochs']}", flush=True)
        self._first = None
        self._start = self._shown = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        # The first batch may have built a graph, and says little about those to come.
        self._first = self._first or (now, *self._done())
        if now - self._shown >= (_SECONDS_ON_A_TERMINAL if self._writes_over else _SECONDS_IN_A_FILE):
            self._shown = now
            self._write(self._line(now, logs), end="" if self._writes_over else "\n")

    def on_epoch_end(self, epoch, logs=None):
        # Where the data does not say how many batches it has, they are known from here on.
        self._total = self._total or self._progress.epoch_steps
        self._write(self._line(time.monotonic(), logs), end="\n")

    def _line(self, now, logs):
        steps, rows = self._done()
        parts = [f"{steps}/{self._total}" if self._total else f"{steps} batches", f"{_clock(now - self._start)}"]
        if self._first and steps > self._first[1]:
            seconds = now - self._first[0]
            rate = (steps - self._first[1]) / seconds
            parts += [f"{rate:.3g} batches/s", f"{(rows - self._first[2]) / seconds:.3g} examples/s"]
            if self._total and steps < self._total:
                parts.append(f"{_clock((self._total - steps) / rate)} left")
        for name in sorted(logs, key=lambda name: name != "loss"):  # which says most, and a narrow terminal cuts
            if np.ndim(logs[name]) == 0:
                parts.append(f"{name} {float(logs[name]):.4g}")
        return "  ".join(parts)

    def _done(self):
        """The batches and the rows of the epoch so far."""
        return self._progress.epoch_steps, self._progress.sums.get("loss", (0.0, 0.0))[1]

    def _write(self, line, end):
        if self._writes_over:
            line = line[: shutil.get_terminal_size().columns - 1]
            line, self._width = line.ljust(self._width), len(line)
            line = f"\r{line}"
        print(line, end=end, flush=True)


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
