"""A search finds the best of its trials, says which, and goes on where it was killed."""

import collections
import dataclasses
import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import plugin_data_pb2

from keras_attention.training import TrainingConfig, fit, search
from tests.training.search_worker import EPOCHS, KillAt, make_setting

# The number of batches after which a search is killed: in the middle of a trial that is not the first.
KILLS = {"grid": 23, "hyperband": 10}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The results, folders and models made, of searches that nothing stopped, by algorithm; each is made once."""
    made = {}

    def get(algorithm):
        if algorithm not in made:
            folder, builds = tmp_path_factory.mktemp(algorithm), []
            result = search(make_setting(builds=builds), folder, algorithm, progress=False)
            made[algorithm] = result, folder, builds
        return made[algorithm]

    return get


def _plain(result):
    """What must not depend on how often a search was interrupted."""
    return [(trial.number, trial.values, trial.score, trial.epoch, trial.problem) for trial in result.trials]


@pytest.mark.parametrize("algorithm", list(KILLS))
def test_a_search_that_is_killed_within_a_trial_ends_as_one_that_was_not(searched, tmp_path, algorithm):
    expected, _, builds = searched(algorithm)
    killed = subprocess.run(
        [sys.executable, "-m", "tests.training.search_worker", algorithm, str(tmp_path), str(KILLS[algorithm])],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("trial-*/trial.json"))]
    ended = [record.get("ended", False) for record in records]
    assert ended == [True] * (len(ended) - 1) + [False]
    assert len(ended) > 1
    assert any((tmp_path / f"trial-{len(ended):04d}" / "checkpoints").glob("checkpoint-*.npz"))
    assert killed.stdout.count("trial ") == sum(ended)

    left = []
    result = search(make_setting(builds=left), tmp_path, algorithm, progress=False)
    assert _plain(result) == _plain(expected)
    # The interrupted one and those that had not begun; none of those that had ended.
    assert len(left) == len(builds) - sum(ended)
    assert result.hyperparameters.values == expected.hyperparameters.values


def test_a_search_that_asks_for_more_under_a_condition_goes_on_with_the_same_trials(tmp_path):
    def setting(hp):
        units = hp.Choice("units", [1, 2])
        rate = hp.Float("rate", 1e-3, 1e-1) if units == 2 else 0.1

        def build():
            model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units), keras.layers.Dense(1)])
            model.compile(keras.optimizers.SGD(rate), "mse")
            return model

        data = tf.data.Dataset.from_tensor_slices((np.eye(2), np.ones((2, 1)))).batch(2)
        return {"build": build, "train": data, "config": TrainingConfig(progress=False)}

    def result(folder, max_trials):
        found = search(setting, tmp_path / folder, max_trials=max_trials, objective="loss", progress=False)
        return sorted(_plain(found))

    expected = result("whole", 8)
    assert {len(values) for _, values, *_ in expected} == {1, 2}
    result("halves", 3)
    assert result("halves", 8) == expected


@pytest.mark.parametrize("algorithm", list(KILLS))
def test_the_score_is_what_fit_reaches_with_the_values_and_the_best_comes_first(searched, algorithm):
    result, _, _ = searched(algorithm)
    scores = [trial.score for trial in result.trials]
    assert scores == sorted(scores)
    arguments = make_setting()(result.hyperparameters)
    config = dataclasses.replace(arguments["config"], checkpoint_folder=None)
    losses = fit(**{**arguments, "config": config}).history.history["val_loss"]
    assert result.best.score == pytest.approx(min(losses), rel=1e-6)
    assert result.best.epoch == losses.index(min(losses)) + 1


def test_a_grid_tries_every_combination_once(searched):
    result, _, builds = searched("grid")
    tried = [tuple(trial.values.values()) for trial in result.trials]
    assert sorted(tried) == sorted(itertools.product([0.01, 0.03, 0.1], [6, 12]))
    assert len(builds) == len(tried) == 6


def test_hyperband_goes_on_with_the_best_from_their_checkpoints(searched):
    result, folder, _ = searched("hyperband")
    records = {int(path.parent.name[-4:]): json.loads(path.read_text()) for path in folder.glob("*/trial.json")}
    rounds = collections.defaultdict(list)
    for number, record in records.items():
        rounds[record["values"]["tuner/bracket"], record["values"]["tuner/round"]].append(number)
    assert len(rounds) > 2
    for (bracket, number), trials in rounds.items():
        if number:
            before = sorted(records[trial]["score"] for trial in rounds[bracket, number - 1])
            parents = [records[int(records[trial]["values"]["tuner/trial_id"]) + 1] for trial in trials]
            assert sorted(parent["score"] for parent in parents) == before[: len(trials)]
            assert all(records[t]["score"] <= p["score"] for t, p in zip(trials, parents, strict=True))
    assert max(record["values"]["tuner/epochs"] for record in records.values()) == EPOCHS
    assert not any(name.startswith("tuner/") for name in result.best.values)


@pytest.mark.parametrize("algorithm", list(KILLS))
def test_only_the_best_keeps_its_checkpoints_from_which_it_is_restored(searched, algorithm):
    result, folder, _ = searched(algorithm)
    assert [path.parent for path in folder.glob("*/checkpoints")] == [result.best.folder]
    arguments = make_setting()(result.hyperparameters)
    folder = result.best.folder / "checkpoints"
    config = dataclasses.replace(arguments["config"], checkpoint_folder=folder)
    trained = fit(**{**arguments, "config": config, "callbacks": [KillAt(1)]})  # there is nothing left to train
    assert trained.history.history["val_loss"][result.best.epoch - 1] == result.best.score


def test_more_trials_may_be_asked_for_and_follow_from_those_that_are_known(tmp_path):
    # Three are drawn by chance for each hyper-parameter, and the fourth follows from their scores.
    expected = search(_setting, tmp_path / "whole", "bayesian", max_trials=4, progress=False)
    for number in (3, 4):
        result = search(_setting, tmp_path / "in parts", "bayesian", max_trials=number, progress=False)
        assert len(result.trials) == number
    assert _plain(result) == _plain(expected)


def test_each_trial_is_told_and_the_result_is_a_table(tmp_path, capsys):
    result = search(make_setting(), tmp_path, max_trials=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    first, second = sorted(result.trials, key=lambda trial: trial.number)
    assert lines[0].startswith(f"trial 1 of 2: val_loss {first.score:.5g}, ")
    values = f"learning_rate={first.values['learning_rate']}, batch_size={first.values['batch_size']}"
    assert lines[0].endswith(values)
    assert lines[1].startswith(f"trial 2 of 2: val_loss {second.score:.5g}, best before {first.score:.5g}, ")
    table = [line.split() for line in str(result).splitlines()]
    assert table[0] == ["trial", "val_loss", "epoch", "seconds", "learning_rate", "batch_size"]
    assert table[1][:3] == [str(result.best.number), f"{result.best.score:.5g}", str(result.best.epoch)]
    assert len(table) == 3


def test_tensorboard_has_the_values_and_the_logs_of_each_trial(searched):
    result, folder, _ = searched("grid")
    runs = EventMultiplexer().AddRunsFromDirectory(str(folder / "tensorboard")).Reload()
    for trial in result.trials:
        run = f"{trial.folder.name}/hparams"
        content = runs.SummaryMetadata(run, "_hparams_/session_start_info").plugin_data.content
        values = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
        assert {name: value.number_value for name, value in values.items()} == pytest.approx(trial.values)
        losses = [
            event.value if hasattr(event, "value") else tf.make_ndarray(event.tensor_proto).item()
            for event in runs.Tensors(run, "val_loss")
        ]
        assert min(losses) == pytest.approx(trial.score, rel=1e-6)


def test_an_objective_with_a_direction_is_followed(tmp_path):
    objective = keras_tuner.Objective("val_mae", "max")
    result = search(make_setting(), tmp_path, max_trials=2, objective=objective, progress=False)
    scores = [trial.score for trial in result.trials]
    assert scores == sorted(scores, reverse=True)


def _setting(hp, loss="mse", **options):
    value = hp.Float("value", 0.0, 1.0)

    def build():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", loss(value) if callable(loss) else loss)
        return model

    data = tf.data.Dataset.from_tensor_slices((np.ones((4, 3)), np.ones((4, 1)))).batch(2)
    return {"build": build, "train": data, "validation": data, "config": TrainingConfig(progress=False), **options}


def test_a_trial_whose_loss_is_no_number_fails_and_the_search_goes_on(tmp_path):
    def loss(value):
        return lambda y, p: keras.ops.mean(keras.ops.abs(y - p)) * (float("nan") if value < 0.5 else 1.0)

    def setting(hp):
        return _setting(hp, loss)

    for _ in range(2):  # what failed is known to have failed
        result = search(setting, tmp_path, max_trials=4, progress=False)
        failed = [trial for trial in result.trials if trial.score is None]
        assert 0 < len(failed) < 4
        assert result.trials[-len(failed) :] == tuple(failed)
        assert all(trial.values["value"] < 0.5 and "never a finite number" in trial.problem for trial in failed)
        assert str(result).splitlines()[-1].split()[1] == "failed"


def test_an_error_in_a_trial_ends_the_search_and_says_with_which_values(tmp_path):
    def build():
        raise KeyError("my own mistake")

    with pytest.raises(RuntimeError, match=r"trial 1 ended in an error, with value=0\.\d+: 'my own mistake'") as raised:
        search(lambda hp: _setting(hp, build=build), tmp_path, max_trials=3, progress=False)
    assert isinstance(raised.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "genetic"}, r"`algorithm` must be among random, grid, bayesian, hyperband"),
        ({"max_trials": None}, r"`max_trials` must be given"),
        ({"max_trials": 0}, r"`max_trials` must be a positive integer"),
        ({"objective": "val_accuracy"}, r"`objective` must be among the logs, which are loss, val_loss"),
        ({"setting": lambda hp: None}, r"`setting` must return the arguments of `fit`"),
        ({"setting": lambda hp: {"build": None, "train": None}}, r"`setting` must ask for a hyper-parameter"),
    ],
)
def test_what_cannot_be_searched_is_refused(tmp_path, options, message):
    options = {"setting": _setting, "folder": tmp_path, "max_trials": 2, "progress": False, **options}
    with pytest.raises(ValueError, match=rf"{message}.*Received: "):
        search(**options)


def test_a_search_on_several_workers_is_refused(tmp_path, monkeypatch):
    cluster = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(ValueError, match=r"a search runs on one host.*Received: TF_CONFIG with 2 workers"):
        search(_setting, tmp_path, max_trials=1)


def test_the_folder_of_another_search_is_refused(tmp_path):
    search(_setting, tmp_path, max_trials=1, progress=False)
    with pytest.raises(ValueError, match=r"`folder` must .*hold this same search.*seed 0 there, 1 here.*Received: "):
        search(_setting, tmp_path, max_trials=1, seed=1, progress=False)
