"""The loop over epochs and batches, which speaks the protocol of Keras's callbacks and can begin anywhere."""

import json
import logging
import math

import numpy as np
import tensorflow as tf

from keras_attention.training.signals import EXIT_STATUS
from keras_attention.training.state import Progress
from keras_attention.training.strategies import checksums

logger = logging.getLogger(__name__)


class Loop:
    """One run.

    Args:
        model: `keras.Model`.
        steps: `Steps`.
        feed: `Feed` of the batches to train on.
        validation_feed: `Feed` or None.
        callbacks: `keras.callbacks.CallbackList`.
        state: `RunState`.
        folder: `CheckpointFolder` or None.
        agreement: `Agreement` of the workers.
        cluster: `Cluster`.
        config: `TrainingConfig`.
    """

    def __init__(self, *, model, steps, feed, validation_feed, callbacks, state, folder, agreement, cluster, config):
        self._model = model
        self._steps = steps
        self._feed = feed
        self._validation_feed = validation_feed
        self._callbacks = callbacks
        self._state = state
        self._folder = folder
        self._agreement = agreement
        self._cluster = cluster
        self._config = config
        self._progress = Progress()
        self._test = None if validation_feed is None else steps.make_test(validation_feed)

    def run(self, termination):
        """Trains to the end.

        Args:
            termination: `Termination`.

        Raises:
            SystemExit: at SIGTERM, once the state is saved.
        """
        self._termination = termination
        try:
            self._run()
        finally:
            if self._folder is not None:
                self._folder.release()

    def _run(self):
        self._agreement.require_same(checksums(self._config))
        arrays, state = self._load()
        if arrays is not None:
            self._progress = Progress(**state["progress"])
            self._state.restore_variables(arrays)
            logger.info("going on after %d batches, in epoch %d", self._progress.step, self._progress.epoch + 1)
        self._model.stop_training = self._progress.stopping
        for callback in self._callbacks.callbacks:
            if hasattr(callback, "set_progress"):
                callback.set_progress(self._progress)
        self._callbacks.on_train_begin()
        if arrays is not None:
            self._state.restore_callbacks(arrays, state)
        logs = None
        if not self._is_over():
            self._go_to_the_data()
            if arrays is not None and self._progress.first_batch != self._feed.first_batch:
                logger.warning(
                    "`train` does not begin with the batch that it began with before the run was stopped, so the "
                    "result will not be that of a run without a stop. Is it shuffled without a seed, or other data?"
                )
            self._agreement.require_same({"the first batch of `train`": self._feed.first_batch})
            self._progress.first_batch = self._feed.first_batch
        while not self._is_over():
            logs = self._run_epoch(arrays)
            arrays = None
        self._model.optimizer.finalize_variable_values(self._model.trainable_weights)
        self._callbacks.on_train_end(logs)

    def _go_to_the_data(self):
        """Begins the passes that have been begun before, in their order: one dataset may be used for both."""
        progress, is_there = self._progress, False
        for begun in progress.validations if self._validation_feed is not None else ():
            if begun <= progress.passes:
                self._feed.skip_passes(begun - 1 - self._feed.passes)
            elif not is_there:
                self._feed.go_to(progress.passes, progress.pass_batches)
                is_there = True
            self._validation_feed.skip_passes(1)
        if not is_there:
            self._feed.go_to(progress.passes, progress.pass_batches)

    def _is_over(self):
        return self._progress.stopped or self._progress.epoch >= self._config.epochs

    def _run_epoch(self, resumed):
        progress = self._progress
        self._model.reset_metrics()
        self._callbacks.on_epoch_begin(progress.epoch)
        if resumed is not None and progress.epoch_steps:
            self._state.restore_metrics(resumed)
        self._run_batches()
        logs = {**progress.means(), **self._metrics()}
        if self._validation_feed is not None:
            logs.update({f"val_{name}": value for name, value in self._validate().items()})
            progress.validations.append(self._feed.passes + 1)
        self._callbacks.on_epoch_end(progress.epoch, logs)

        progress.epoch += 1
        progress.epoch_steps, progress.sums = 0, {}
        if not self._config.steps_per_epoch:
            progress.passes, progress.pass_batches = progress.passes + 1, 0
        terminated, progress.stopped = self._agreement.any(self._termination.requested, self._model.stop_training)
        if self._is_over() or terminated or progress.epoch % self._config.checkpoint_every_epochs == 0:
            self._save()
        if terminated:
            raise SystemExit(EXIT_STATUS)
        if not self._is_over() and not self._config.steps_per_epoch:
            self._feed.start()
        return logs

    def _run_batches(self):
        """Trains on the batches that are left of the epoch."""
        progress, config = self._progress, self._config
        if progress.stopping:
            return
        (more,) = self._agreement.any(self._feed.has_next)
        while not config.steps_per_epoch or progress.epoch_steps < config.steps_per_epoch:
            if not more:
                if not config.steps_per_epoch and progress.step:
                    return
                more = self._start_pass()
            self._callbacks.on_train_batch_begin(progress.epoch_steps)
            batch = self._feed.take()
            losses, rows, metrics = self._steps.train(batch, progress.step)
            self._feed.require_complete(batch, rows)
            progress.step += 1
            progress.epoch_steps += 1
            progress.passes, progress.pass_batches = self._feed.passes, self._feed.batches
            self._callbacks.on_train_batch_end(progress.epoch_steps - 1, {**progress.add(losses, rows), **metrics})
            more, terminated, stopped = self._agreement.any(
                self._feed.has_next, self._termination.requested, self._model.stop_training
            )
            self._model.stop_training = progress.stopping = stopped
            if terminated or (config.checkpoint_every_steps and progress.step % config.checkpoint_every_steps == 0):
                self._save()
            if terminated:
                logger.info("stopped by SIGTERM after %d batches", progress.step)
                raise SystemExit(EXIT_STATUS)
            if stopped:
                return

    def _start_pass(self):
        self._feed.start()
        (more,) = self._agreement.any(self._feed.has_next)
        if not more:
            raise ValueError("`train` must have a batch at least. Received: train with none")
        return more

    def _validate(self):
        """Evaluates, as `keras.Model.evaluate` does; returns the logs."""
        trained = self._state.capture_metrics() if self._folder is not None else None
        self._model.reset_metrics()
        self._callbacks.on_test_begin()
        means = Progress()
        self._validation_feed.start()
        while self._config.validation_steps is None or means.step < self._config.validation_steps:
            more, terminated = self._agreement.any(self._validation_feed.has_next, self._termination.requested)
            if terminated:
                # Saved is the end of the epoch's training: the next run validates from the beginning.
                self._state.restore_metrics(trained)
                self._save()
                raise SystemExit(EXIT_STATUS)
            if not more:
                break
            self._callbacks.on_test_batch_begin(means.step)
            batch = self._validation_feed.take()
            losses, rows, metrics = self._test(batch)
            self._validation_feed.require_complete(batch, rows)
            means.step += 1
            self._callbacks.on_test_batch_end(means.step - 1, {**means.add(losses, rows), **metrics})
        logs = {**means.means(), **self._metrics()}
        self._callbacks.on_test_end(logs)
        return logs

    def _metrics(self):
        metrics = self._model.get_metrics_result()
        return {name: float(value) if value.shape == () else value for name, value in metrics.items() if name != "loss"}

    def _save(self):
        if self._folder is None:
            return
        # On all workers, since metrics are summed when they are read.
        captured = self._state.capture(self._progress)
        if self._cluster.is_chief:
            self._folder.save(self._progress.step, *captured)
        self._agreement.any(False)  # No worker goes on, or ends, while the chief writes.

    def _load(self):
        """The newest checkpoint of the chief, on all workers; (None, None) if there is none."""
        arrays, state, problem = None, None, None
        if self._folder is None:
            return arrays, state
        if self._cluster.is_chief:
            try:
                self._folder.claim()
                path = self._folder.newest()
                if path and not self._config.resume:
                    raise ValueError(
                        "`checkpoint_folder` must have no checkpoints where `resume` is False. Received: "
                        f"checkpoint_folder={str(self._config.checkpoint_folder)!r} with resume=False"
                    )
                if path:
                    arrays, state = self._folder.load(path)
                    self._state.check(arrays, path)
            except (ValueError, OSError) as error:
                problem = error
        (failed, found) = self._agreement.any(problem is not None, arrays is not None)
        if failed:
            raise problem or ValueError("the chief cannot use the folder of checkpoints, and says why")
        if not found or len(self._cluster.workers) == 1:
            return arrays, state
        return self._from_the_chief(arrays, state)

    def _from_the_chief(self, arrays, state):
        """What the chief has read, on all workers, so that only the chief needs the files."""

        chief = self._cluster.is_chief

        def send(array, size, dtype):
            return self._agreement.total(tf.constant(array if chief else np.zeros(size, dtype)))

        described = np.zeros(0, np.int32)
        if chief:
            layout = {name: [array.shape, array.dtype.name] for name, array in arrays.items()}
            described = np.frombuffer(json.dumps([layout, state]).encode(), np.uint8).astype(np.int32)
        (size,) = send(np.array([described.size], np.int32), 1, np.int32)
        layout, state = json.loads(send(described, size, np.int32).astype(np.uint8).tobytes())
        sent = {}
        for dtype in sorted({dtype for _, dtype in layout.values()}):
            shapes = {name: shape for name, (shape, kind) in layout.items() if kind == dtype}
            sizes = [math.prod(shape) for shape in shapes.values()]
            ours = np.concatenate([arrays[name].reshape(-1) for name in shapes]) if chief else None
            parts = np.split(send(ours, sum(sizes), dtype), np.cumsum(sizes)[:-1])
            sent.update({name: part.reshape(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)})
        return sent, state
