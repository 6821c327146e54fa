"""Runs compare on TensorBoard's HParams page: what they were made with, and what came of them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from keras_attention.training import HyperParameters, OptimizerConfig, TrainingConfig, fit
from tests.training import worker
from tests.training.boards import Board

RATES = (0.1, 0.01)


@dataclasses.dataclass(frozen=True)
class _Config:
    optimizer: OptimizerConfig
    folder: Path | None = None
    layers: int = 1


def _fit(folder, rate, epochs=2, checkpoints=None):
    values = _Config(OptimizerConfig(learning_rate=rate), folder)
    config = TrainingConfig(epochs=epochs, log_folder=folder, progress=False, checkpoint_folder=checkpoints)
    build = lambda: worker.build({"learning_rate": rate}, layers=1)  # noqa: E731
    return fit(build, worker.dataset(), worker.dataset(count=13), config, [HyperParameters(folder, values)])


def test_runs_stand_beside_each_other_with_the_last_epoch_of_their_history(tmp_path):
    trained = [_fit(tmp_path / "runs" / str(rate), rate) for rate in RATES]
    _fit(tmp_path / "runs" / "resumed", 0.1, epochs=1, checkpoints=tmp_path / "checkpoints")
    trained.append(_fit(tmp_path / "runs" / "resumed", 0.1, checkpoints=tmp_path / "checkpoints"))
    with Board(tmp_path / "runs", tmp_path / "log") as board:
        board.wait_for_runs(*(f"{name}/hparams" for name in (*RATES, "resumed")))
        metrics = ["loss", "accuracy", "gradient_norm", "val_loss", "val_accuracy"]
        about = {
            "colParams": [{"metric": {"tag": metric, "group": ""}} for metric in metrics],
            "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
            "sliceSize": 10,
        }
        groups = board.wait_for(
            lambda: board.json("plugin/hparams/session_groups", about)["sessionGroups"],
            lambda groups: len(groups) == 3 and all(len(group.get("metricValues", [])) == 5 for group in groups),
        )
        experiment = board.json("plugin/hparams/experiment", {"experimentName": ""})
    found = {group["name"]: group for group in groups}
    for name, result in zip((*map(str, RATES), "resumed"), trained, strict=True):
        group = found[str(tmp_path / "runs" / name)]
        assert group["hparams"]["optimizer.learning_rate"] == (0.1 if name == "resumed" else float(name))
        assert group["hparams"]["optimizer.schedule"] == "constant"
        assert group["hparams"]["optimizer.total_steps"] == "None"
        assert group["hparams"]["folder"] == str(tmp_path / "runs" / name)
        assert group["hparams"]["layers"] == 1
        assert group["sessions"][0]["status"] == "STATUS_SUCCESS"
        values = {value["name"]["tag"]: value for value in group["metricValues"]}
        for metric in metrics:
            assert values[metric]["value"] == pytest.approx(result.history.history[metric][-1], rel=1e-6)
            assert values[metric]["trainingStep"] == 12
    # Nothing of the curves of the batches is in the table.
    assert {info["name"]["tag"] for info in experiment["metricInfos"]} == set(metrics)


def test_values_keep_their_kind(tmp_path):
    values = {"a": True, "b": np.float32(0.5), "c": {"d": None, "e": (1, 2)}}
    assert HyperParameters(tmp_path, values).values == {"a": True, "b": 0.5, "c.d": "None", "c.e": "(1, 2)"}


@pytest.mark.parametrize("values", [None, {}, [("a", 1)], _Config, "text"])
def test_values_that_have_no_names_are_refused(tmp_path, values):
    with pytest.raises(ValueError, match=r"`values` must .*Received: values="):
        HyperParameters(tmp_path, values)
