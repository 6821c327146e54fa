"""What a run writes is what it did, once, however often it was stopped."""

import csv
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_attention.training import OptimizerConfig, TrainingConfig, WarmupCosine, fit, make_optimizer
from keras_attention.training.fit import _callbacks
from keras_attention.training.run_log import RunLog
from keras_attention.training.strategies import Cluster
from tests.training import worker
from tests.training.boards import Board, curves, read
from tests.training.runs import Run

STEPS_AN_EPOCH, EPOCHS = 6, 3
ENDS = [STEPS_AN_EPOCH * (epoch + 1) for epoch in range(EPOCHS)]
OPTIMIZER = {"learning_rate": 0.01, "schedule": "cosine", "warmup_steps": 4, "total_steps": ENDS[-1]}
SPEEDS = ("steps_per_second", "examples_per_second")


def _build(**options):
    return lambda: worker.build({**OPTIMIZER, **options}, layers=1)


def _fit(folder, callbacks=(), build=None, **options):
    config = TrainingConfig(**{"epochs": EPOCHS, "log_folder": folder, "progress": False, **options})
    return fit(build or _build(), worker.dataset(), worker.dataset(count=13, seed=1), config, list(callbacks))


def _table(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder and the result of a run."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    return folder, _fit(str(folder))


def test_the_curves_of_the_epochs_are_the_history_at_the_batches_so_far(run):
    folder, trained = run
    train, validation = curves(folder / "train"), curves(folder / "validation")
    history = trained.history.history
    assert {"loss", "accuracy", "gradient_norm", "val_loss", "val_accuracy"} == set(history)
    for name, values in history.items():
        curve = validation if name.startswith("val_") else train
        assert curve[f"epoch_{name.removeprefix('val_')}"] == pytest.approx(
            dict(zip(ENDS, values, strict=True)), rel=1e-6
        )
    assert set(validation) == {"epoch_loss", "epoch_accuracy"}
    speeds = {f"epoch_{name}" for name in SPEEDS}
    assert set(train) == {"epoch_loss", "epoch_accuracy", "epoch_gradient_norm", "epoch_learning_rate", *speeds}
    for name in speeds:
        assert all(value > 0 for value in train[name].values())


def test_the_curves_of_the_batches_are_of_each_batch_and_the_rate_is_the_schedules(run):
    folder, trained = run
    steps = curves(folder / "steps")
    every = range(1, ENDS[-1] + 1)
    assert all(list(curve) == list(every) for curve in steps.values())
    sizes = np.array([8, 8, 8, 8, 8, 3] * EPOCHS)
    for name in ("loss", "gradient_norm"):
        of_batches = np.array(list(steps[f"batch_{name}"].values()))
        means = (of_batches * sizes).reshape(EPOCHS, -1).sum(1) / worker.EXAMPLES
        np.testing.assert_allclose(means, trained.history.history[name], rtol=1e-5)
    # A metric is of the epoch so far.
    at_the_end = [steps["batch_accuracy"][step] for step in ENDS]
    np.testing.assert_allclose(at_the_end, trained.history.history["accuracy"], rtol=1e-6)
    schedule = WarmupCosine(OPTIMIZER["learning_rate"], OPTIMIZER["warmup_steps"], OPTIMIZER["total_steps"])
    rates = {step: float(schedule(step - 1)) for step in every}
    assert steps["batch_learning_rate"] == pytest.approx(rates, rel=1e-5)
    of_epochs = curves(folder / "train")["epoch_learning_rate"]
    assert of_epochs == pytest.approx({step: rates[step] for step in ENDS}, rel=1e-5)
    ratio = np.divide(*(list(steps[f"batch_{name}"].values()) for name in reversed(SPEEDS)))
    np.testing.assert_allclose(ratio, sizes, rtol=1e-4)


def test_every_weight_has_a_histogram_after_every_epoch(run):
    folder, trained = run
    reader = read(folder / "train")
    weights = {w.path: np.array(w) for w in trained.model.weights if w.dtype == "float32"}
    assert set(reader.Tags()["histograms"]) == set(weights)
    for path, weight in weights.items():
        events = reader.Histograms(path)
        assert [event.step for event in events] == ENDS
        last = events[-1].histogram_value
        assert (last.num, last.min, last.max) == (weight.size, weight.min(), weight.max())
        assert sum(last.bucket) == weight.size
        assert last.sum == pytest.approx(weight.astype("float64").sum())


def test_the_graph_is_that_of_a_training_step(run):
    folder, _ = run
    operations = {node.op for node in read(folder / "train").Graph().node}
    assert {"Softmax", "SparseSoftmaxCrossEntropyWithLogits", "AssignSubVariableOp"} <= operations


def test_the_table_is_the_history(run):
    folder, trained = run
    lines = _table(folder)
    assert [line.pop("epoch") for line in lines] == ["0", "1", "2"]
    columns = {name: [float(line[name]) for line in lines] for name in lines[0]}
    assert columns == trained.history.history


def _log(folder, checkpoints):
    config = {
        "epochs": EPOCHS,
        "checkpoint_folder": str(checkpoints),
        "checkpoint_every_steps": 2,
        "log_folder": str(folder),
    }
    return {"model": {"layers": 1, "dropout": 0.3}, "data": {"shuffle": True}, "optimizer": OPTIMIZER, "config": config}


def _require_same_curves(ours, theirs):
    assert set(ours) == set(theirs)
    for tag, curve in theirs.items():
        if tag.endswith("per_second"):
            # In the epoch of a kill the batches of another process do not count.
            assert list(ours[tag]) == list(curve), tag
        else:
            assert ours[tag] == pytest.approx(curve, rel=1e-6), tag


def test_a_run_killed_and_resumed_shows_the_curves_of_one_that_was_not(tmp_path):
    killed = _log(tmp_path / "runs" / "killed", tmp_path / "checkpoints")
    whole = _log(tmp_path / "runs" / "whole", tmp_path / "checkpoints-whole")
    other = Run(tmp_path / "whole", "one_device", {"fit": whole})
    try:
        # In the third epoch, with a batch done since the last checkpoint.
        one = Run(tmp_path / "killed", "one_device", {"fit": {**killed, "signals": {"16": "SIGKILL"}}})
        assert one.wait() == [-signal.SIGKILL], one.logs()
        Run(tmp_path / "resumed", "one_device", {"fit": killed}).succeed()
        other.succeed()
    finally:
        other.kill()

    runs = {name: tmp_path / "runs" / name for name in ("killed", "whole")}
    for name in ("steps", "train", "validation"):
        assert len(list((runs["killed"] / name).iterdir())) == 2
        _require_same_curves(curves(runs["killed"] / name), curves(runs["whole"] / name))
    assert _table(runs["killed"]) == _table(runs["whole"])
    readers = [read(folder / "train") for folder in runs.values()]
    tag = readers[0].Tags()["histograms"][0]
    ours, theirs = ({e.step: e.histogram_value.sum for e in reader.Histograms(tag)} for reader in readers)
    assert ours == pytest.approx(theirs)
    for loader in ("true", "false"):  # of TensorBoard's two data servers
        with Board(tmp_path / "runs", tmp_path / f"board-{loader}", "--load_fast", loader) as board:
            board.wait_for_runs(*(f"{run}/{name}" for run in runs for name in ("steps", "train", "validation")))
            for name, tag in (("steps", "batch_loss"), ("train", "epoch_loss"), ("validation", "epoch_loss")):
                expected = curves(runs["whole"] / name)[tag]
                shown = board.wait_for(
                    lambda name=name, tag=tag: board.curve(f"killed/{name}", tag),
                    lambda curve, expected=expected: len(curve) == len(expected),
                )
                assert shown == pytest.approx(expected, rel=1e-6)


class _Crash(keras.callbacks.Callback):
    """The process dies when it is about to write a checkpoint."""

    def __init__(self, save):
        super().__init__()
        self.save = save

    def get_state(self):
        self.save -= 1
        if not self.save:
            raise KeyboardInterrupt
        return {}


def test_an_epoch_that_was_written_and_not_saved_is_there_once(tmp_path):
    options = {"checkpoint_folder": tmp_path / "checkpoints", "checkpoint_every_steps": STEPS_AN_EPOCH}
    with pytest.raises(KeyboardInterrupt):
        # Saved after the last batch of the second epoch, and not at its end.
        _fit(tmp_path / "log", [_Crash(save=4)], **options)
    deadline = time.monotonic() + 30
    while (
        ENDS[1] not in curves(tmp_path / "log" / "train")["epoch_loss"]
    ):  # the process would have ended, and closed it
        assert time.monotonic() < deadline
        time.sleep(0.5)
    trained = _fit(tmp_path / "log", [_Crash(save=-1)], **options)
    train = curves(tmp_path / "log" / "train")
    for name in ("loss", "accuracy"):
        assert list(train[f"epoch_{name}"].values()) == pytest.approx(trained.history.history[name], rel=1e-6)
    assert list(train["epoch_loss"]) == list(train["epoch_learning_rate"]) == ENDS
    assert list(curves(tmp_path / "log" / "steps")["batch_loss"]) == list(range(1, ENDS[-1] + 1))
    assert [line["epoch"] for line in _table(tmp_path / "log")] == ["0", "1", "2"]


def test_a_run_that_begins_anew_takes_the_place_of_what_was_there(tmp_path):
    _fit(tmp_path)
    trained = _fit(tmp_path, build=_build(learning_rate=0.1), epochs=2)
    assert list(curves(tmp_path / "steps")["batch_loss"]) == list(range(1, ENDS[1] + 1))
    losses = curves(tmp_path / "train")["epoch_loss"]
    assert losses == pytest.approx(dict(zip(ENDS[:2], trained.history.history["loss"], strict=True)), rel=1e-6)
    assert [float(line["loss"]) for line in _table(tmp_path)] == trained.history.history["loss"]


def test_the_steps_of_a_run_that_skips_updates_are_its_batches(tmp_path):
    # The scale of the loss is too large at first: those updates are left out, and the optimizer does not count them.
    trained = _fit(
        tmp_path,
        mixed_precision="mixed_float16",
        epochs=1,
        build=_build(schedule="constant", warmup_steps=0, total_steps=None),
    )
    assert list(curves(tmp_path / "steps")["batch_loss"]) == list(range(1, STEPS_AN_EPOCH + 1))
    assert int(trained.model.optimizer.iterations) <= STEPS_AN_EPOCH


def test_weights_that_are_not_numbers_do_not_end_the_run(tmp_path):
    def build():
        model = worker.build({"learning_rate": 0.01}, layers=1)
        model.layers[-1].bias.assign(np.full(worker.VOCABULARY, np.nan, "float32"))
        return model

    _fit(tmp_path, build=build, epochs=1)
    assert np.isnan(curves(tmp_path / "steps")["batch_loss"][1])


def test_a_metric_that_is_no_number_is_left_out_of_the_curves_and_stands_in_the_table(tmp_path):
    class Counts(keras.metrics.Metric):
        def __init__(self):
            super().__init__(name="counts")
            self.total = self.add_weight(shape=(2,), initializer="zeros", name="total")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.total.assign_add(tf.ones(2))

        def result(self):
            return self.total

    def build():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(make_optimizer(OptimizerConfig()), "mse", metrics=[Counts()])
        return model

    data = tf.data.Dataset.from_tensor_slices((np.ones((8, 3)), np.ones((8, 1)))).batch(4)
    fit(build, data, config=TrainingConfig(log_folder=tmp_path, progress=False))
    assert "epoch_counts" not in curves(tmp_path / "train")
    assert _table(tmp_path)[0]["counts"].startswith("[2. 2.")


def test_only_the_chief_writes(tmp_path):
    config = TrainingConfig(log_folder=tmp_path)
    workers = ("a:1", "b:1")
    kinds = [[type(c) for c in _callbacks([], config, Cluster(workers, index), None)] for index in range(2)]
    assert RunLog in kinds[0]
    assert kinds[1] == []


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "log"):
        with pytest.raises(
            ValueError, match=rf"`log_folder` must be a folder, and .*file is a file\. Received: .*{path}"
        ):
            _fit(path)


def test_a_table_of_something_else_is_refused(tmp_path):
    (tmp_path / "history.csv").write_text("name,price\ntea,3\n")
    config = {"checkpoint_folder": tmp_path / "checkpoints", "epochs": 2}
    with pytest.raises(ValueError, match=r"history\.csv is no history of a run.*Received: columns name, price"):
        _fit(tmp_path, **config)
