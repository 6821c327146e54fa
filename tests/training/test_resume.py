"""A run that was killed ends with the numbers of one that was not."""

import multiprocessing
import random
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_attention.training import CheckpointFolder, OptimizerConfig, TrainingConfig, fit, make_optimizer
from tests.training.disks import DISKS
from tests.training.runs import Run

STEPS = 18


def _fit(folder, **signals):
    return {
        "model": {"layers": 1, "dropout": 0.3},
        "data": {"shuffle": True},
        "validation": False,
        "optimizer": {"schedule": "cosine", "warmup_steps": 5, "total_steps": STEPS, "ema_momentum": 0.9},
        "config": {
            "epochs": 3,
            "gradient_accumulation_steps": 2,
            "checkpoint_folder": str(folder),
            "checkpoint_every_steps": 2,
            "patience": 5,
        },
        "signals": {str(step): name for step, name in signals.values()},
        "who": 0,
    }


def _require_same(history, expected):
    assert set(history) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=0, atol=1e-7, err_msg=name)


def _random_steps(seed):
    return sorted(random.Random(seed).sample(range(2, STEPS), 5))


@pytest.mark.parametrize(("strategy", "who"), [("one_device", 0), ("multi_worker", 1)])
def test_a_run_killed_five_times_ends_with_the_losses_of_one_that_was_not(tmp_path, strategy, who):
    expected = Run(tmp_path / "whole", strategy, {"fit": _fit(tmp_path / "checkpoints-whole")})
    try:
        expected.succeed()
    finally:
        expected.kill()
    steps = _random_steps(seed=len(strategy))
    for number, step in enumerate(steps):
        one = {**_fit(tmp_path / "checkpoints", kill=(step, "SIGKILL")), "who": who}
        run = Run(tmp_path / "killed", strategy, {"fit": one})
        statuses = run.wait()
        assert statuses[who] == -signal.SIGKILL, (number, step, run.logs())
    run = Run(tmp_path / "killed", strategy, {"fit": _fit(tmp_path / "checkpoints")}).succeed()

    assert len(run.losses("fit")) == len(expected.losses("fit")) == STEPS
    np.testing.assert_allclose(run.losses("fit"), expected.losses("fit"), rtol=0, atol=1e-7)
    _require_same(run.history("fit"), expected.history("fit"))
    for weight, other in zip(run.weights("fit"), expected.weights("fit"), strict=True):
        np.testing.assert_allclose(weight, other, rtol=0, atol=1e-7)
    if strategy == "multi_worker":
        assert run.history("fit", 1) == run.history("fit", 0)


def test_sigterm_to_one_worker_ends_the_step_on_all_saves_and_exits_with_143(tmp_path):
    fits = {"fit": {**_fit(tmp_path / "checkpoints", term=(5, "SIGTERM")), "who": 1}}
    assert Run(tmp_path, "multi_worker", fits).wait() == [143, 143]
    assert CheckpointFolder(tmp_path / "checkpoints").newest().name == "checkpoint-0000000005.npz"


def _build(units=4, dropout=0.5):
    def build():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units), keras.layers.Dropout(dropout)])
        model.compile(make_optimizer(OptimizerConfig()), "mse")
        return model

    return build


def _data():
    tf.random.set_seed(0)  # as in a process of its own: a seeded shuffle depends on this one too
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(10, 3)), rng.normal(size=(10, 1))
    return tf.data.Dataset.from_tensor_slices(arrays).shuffle(10, seed=2).batch(4)


class _Stop(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        self.step -= 1
        if self.step == 0:
            signal.raise_signal(signal.SIGTERM)


def test_data_with_steps_per_epoch_goes_on_where_it_was_within_a_pass(tmp_path):
    def losses(folder, stop=None):
        config = TrainingConfig(epochs=4, steps_per_epoch=5, checkpoint_folder=tmp_path / folder, progress=False)
        return fit(_build(), _data(), _data(), config, [_Stop(stop)] if stop else []).history.history

    expected = losses("whole")
    before = signal.getsignal(signal.SIGTERM)
    for stop in (7, 3):
        with pytest.raises(SystemExit) as status:
            losses("stopped", stop)
        assert status.value.code == 143
        assert signal.getsignal(signal.SIGTERM) == before
    _require_same(losses("stopped"), expected)
    _require_same(losses("stopped"), expected)  # nothing is left to do


@pytest.mark.parametrize("steps_per_epoch", [None, 5])
def test_sigterm_in_a_validation_saves_the_epoch_before_it_and_the_next_run_validates_anew(tmp_path, steps_per_epoch):
    class StopInValidation(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            signal.raise_signal(signal.SIGTERM)

    def history(folder, *callbacks):
        config = TrainingConfig(
            epochs=3, steps_per_epoch=steps_per_epoch, checkpoint_folder=tmp_path / folder, progress=False
        )
        return fit(_build(), _data(), _data(), config, callbacks).history.history

    expected = history("whole")
    with pytest.raises(SystemExit) as status:
        history("stopped", StopInValidation())
    assert status.value.code == 143
    _require_same(history("stopped"), expected)


@pytest.mark.parametrize("steps_per_epoch", [None, 2])
def test_one_shuffled_dataset_for_training_and_validation_goes_on_in_its_order(tmp_path, steps_per_epoch):
    def history(folder, epochs):
        data, folder = _data(), tmp_path / folder
        config = TrainingConfig(
            epochs=epochs, steps_per_epoch=steps_per_epoch, checkpoint_folder=folder, progress=False
        )
        return fit(_build(), data, data, config).history.history

    expected = history("whole", 5)
    history("stopped", 1)
    history("stopped", 3)
    _require_same(history("stopped", 5), expected)


def test_a_run_that_a_callback_has_stopped_within_an_epoch_stays_stopped(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 0

    class StopInValidation(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            signal.raise_signal(signal.SIGTERM)

    def history(folder, *callbacks):
        config = TrainingConfig(epochs=3, checkpoint_folder=tmp_path / folder, progress=False)
        return fit(_build(), _data(), _data(), config, callbacks).history.history

    expected = history("whole", Stop())
    with pytest.raises(SystemExit):
        history("stopped", Stop(), StopInValidation())
    _require_same(history("stopped"), expected)


def test_a_run_that_goes_on_with_other_data_says_so_and_one_with_the_same_does_not(tmp_path, caplog):
    def run(data, epochs):
        fit(_build(), data, None, TrainingConfig(epochs=epochs, checkpoint_folder=tmp_path, progress=False))

    run(_data(), 2)
    run(_data(), 3)
    assert "does not begin with the batch" not in caplog.text
    run(_data().map(lambda x, y: (x + 1, y)), 4)
    assert "`train` does not begin with the batch that it began with before" in caplog.text


@pytest.mark.parametrize("kind", DISKS)
def test_a_disk_that_is_full_ends_the_run_with_the_checkpoint_before_to_go_on_from(tmp_path, kind):
    def run(folder, *callbacks):
        config = TrainingConfig(epochs=4, checkpoint_folder=folder, progress=False)
        return fit(_build(), _data(), None, config, callbacks).history.history

    expected = run(tmp_path / "whole")
    (tmp_path / "disk").mkdir()
    with kind(tmp_path / "disk") as disk:
        fill = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: disk.fill() if epoch == 2 else None)
        with pytest.raises(OSError, match=r"could not be written .*checkpoint-0000000006\.npz is as it was") as raised:
            run(disk.path, fill)
        assert raised.value.errno == disk.errno
        names = sorted(path.name for path in disk.path.glob("checkpoint*"))
        assert names == ["checkpoint-0000000003.npz", "checkpoint-0000000006.npz"]
        disk.free()
        _require_same(run(disk.path), expected)


def _hold(path, pipe):
    folder = CheckpointFolder(path)
    folder.claim()
    pipe.send("held")
    pipe.recv()


def test_two_runs_at_once_in_one_folder_are_refused_and_two_in_turn_are_not(tmp_path):
    config = TrainingConfig(checkpoint_folder=tmp_path, progress=False)
    fit(_build(), _data(), config=config)  # and lets go of it
    ours, theirs = multiprocessing.Pipe()
    other = multiprocessing.get_context("fork").Process(target=_hold, args=(tmp_path, theirs))
    other.start()
    assert ours.recv() == "held"
    with pytest.raises(ValueError, match=rf"another run writes .*process {other.pid} on .*Received: "):
        fit(_build(), _data(), config=config)
    ours.send("let go")
    other.join()
    fit(_build(), _data(), config=config)


def test_a_damaged_checkpoint_ends_the_run_and_the_one_before_goes_on_once_it_is_removed(tmp_path):
    config = TrainingConfig(epochs=2, checkpoint_folder=tmp_path, progress=False)
    expected = fit(_build(), _data(), config=config).history.history
    newest = CheckpointFolder(tmp_path).newest()
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"the checkpoint is damaged: .*Remove it to go on .*Received: .*0006\.npz"):
        fit(_build(), _data(), config=config)
    newest.unlink()
    _require_same(fit(_build(), _data(), config=config).history.history, expected)


def test_what_callbacks_have_learned_is_restored(tmp_path):
    def callbacks():
        return [
            keras.callbacks.EarlyStopping("loss", mode="min", patience=3, restore_best_weights=True, min_delta=100.0),
            keras.callbacks.ReduceLROnPlateau("loss", mode="min", patience=1, min_delta=100.0, factor=0.5),
        ]

    def run(folder, stop=None):
        config = TrainingConfig(epochs=9, checkpoint_folder=tmp_path / folder, progress=False)
        used = callbacks()
        trained = fit(_build(dropout=0.0), _data(), None, config, used + ([_Stop(stop)] if stop else []))
        return trained, used

    expected, expected_callbacks = run("whole")
    assert len(expected.history.history["loss"]) == 4
    with pytest.raises(SystemExit):
        run("stopped", stop=7)
    trained, used = run("stopped")
    _require_same(trained.history.history, expected.history.history)
    assert trained.history.epoch == expected.history.epoch
    assert used[0].best_epoch == expected_callbacks[0].best_epoch
    rate = float(trained.model.optimizer.learning_rate)
    assert rate == pytest.approx(float(expected.model.optimizer.learning_rate))
    for weight, other in zip(trained.model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-7)


def test_a_checkpoint_of_another_model_is_refused_with_what_differs(tmp_path):
    config = TrainingConfig(checkpoint_folder=tmp_path, progress=False)
    fit(_build(4), _data(), config=config)
    with pytest.raises(
        ValueError, match=r"dense.*/kernel \[3, 4\] in the checkpoint, .*/kernel \[3, 5\] here.*Received"
    ):
        fit(_build(5), _data(), config=config)


def test_a_folder_with_checkpoints_is_refused_where_the_run_is_to_begin_anew(tmp_path):
    fit(_build(), _data(), config=TrainingConfig(checkpoint_folder=tmp_path, progress=False))
    with pytest.raises(ValueError, match=r"`checkpoint_folder` must have no checkpoints.*Received: .*resume=False"):
        fit(_build(), _data(), config=TrainingConfig(checkpoint_folder=tmp_path, resume=False, progress=False))
