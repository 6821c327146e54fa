"""The trials of a search: proposed by keras-tuner, trained by `fit`, recorded in files of our own.

keras-tuner writes its state in several files, not atomically, and that of its grid not at all (keras-tuner#1055), and
begins an interrupted trial anew. Its algorithms follow from the seed and the scores, though, so what is kept here is
each trial's values and score, and a search that goes on proposes the same trials again and is told the scores that are
known. keras-tuner's own files go to a folder that is thrown away.
"""

import dataclasses
import gc
import json
import math
import os
import shutil
import time

import keras
import keras_tuner
import tensorflow as tf
from keras_tuner.engine.base_tuner import BaseTuner

from keras_attention.training.fit import fit
from keras_attention.training.hyper_parameters import HyperParameters
from keras_attention.training.search import SearchResult, TrialResult, fit_arguments

_ORACLES = {
    "random": keras_tuner.oracles.RandomSearchOracle,
    "grid": keras_tuner.oracles.GridSearchOracle,
    "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
    "hyperband": keras_tuner.oracles.HyperbandOracle,
}


class Trials(BaseTuner):
    """The trials of a search.

    Args:
        setting: function of `keras_tuner.HyperParameters` that returns the arguments of `fit`.
        folder: Path, where the trials are kept.
        algorithm: str, a name in `search.Algorithm`.
        max_trials: int or None.
        objective: str or `keras_tuner.Objective`.
        seed: int.
        progress: bool.
        scratch: folder for the files of keras-tuner.

    Raises:
        ValueError: if the folder holds another search, or there is nothing to search for.
    """

    def __init__(self, setting, folder, algorithm, max_trials, objective, seed, progress, scratch):
        space = keras_tuner.HyperParameters()
        config = fit_arguments(setting, space)["config"]
        # A seed of 0 counts as none there.
        options = {"objective": objective, "seed": seed + 1}
        limit = {"max_epochs": config.epochs} if algorithm == "hyperband" else {"max_trials": max_trials}
        oracle = _ORACLES[algorithm](**options, **limit)
        oracle.max_trials = max_trials
        oracle.verbose = 0
        super().__init__(oracle, hypermodel=setting, directory=scratch, project_name="trials", overwrite=True)
        if not self.oracle.get_space().space:
            raise ValueError(f"`setting` must ask for a hyper-parameter at least. Received: {setting!r}")
        self._setting = setting
        self._folder = folder
        self._seed = seed
        self._keeps_all = algorithm == "hyperband"
        self._max_trials = max_trials
        self._progress = progress
        self._best = None
        self._identify(
            {
                "algorithm": algorithm,
                "objective": [oracle.objective.name, oracle.objective.direction],
                "seed": seed,
                "epochs": config.epochs,
                "space": self.oracle.get_space().get_config()["space"],
            }
        )

    def run_trial(self, trial):
        """Trains a trial, or recalls it.

        Args:
            trial: `keras_tuner.engine.trial.Trial`.

        Returns:
            dict of the score, by the name of the objective.
        """
        number = _number(trial.trial_id)
        folder = self._trial_folder(number)
        record = _read(folder / "trial.json")
        if record:
            # What it asks for only under a condition is known to the algorithm when it has been asked.
            fit_arguments(self._setting, trial.hyperparameters)
            trial.hyperparameters.values = record["values"]
        if not record.get("ended"):
            record = {"values": trial.hyperparameters.values}
            _write(folder / "trial.json", record)
            record.update(self._train(trial, folder), ended=True)
            _write(folder / "trial.json", record)
            self._report(number, record)
        if record["score"] is None:
            raise keras_tuner.errors.FailedTrialError(record["problem"])
        self._best = min([self._best or record, record], key=lambda each: self._order(each["score"]))
        return {self.oracle.objective.name: record["score"]}

    def on_trial_end(self, trial):
        """Removes what is no longer needed of the trials so far."""
        super().on_trial_end(trial)
        if not self._keeps_all:
            self._remove_all_checkpoints_but_the_best()

    def on_search_end(self):
        """Removes the checkpoints of all but the best."""
        self._remove_all_checkpoints_but_the_best()

    def result(self):
        """The `SearchResult`."""
        results = []
        for trial in self.oracle.trials.values():
            number = _number(trial.trial_id)
            record = _read(self._trial_folder(number) / "trial.json")
            known = {name: record[name] for name in ("score", "epoch", "seconds", "problem")}
            results.append(TrialResult(number, _own(record["values"]), **known, folder=self._trial_folder(number)))
        results.sort(key=lambda result: self._order(result.score))
        if not results or results[0].score is None:
            raise RuntimeError(f"no trial has come to an end. Received: {results!r}")
        return SearchResult(tuple(results), self.get_best_hyperparameters()[0], self.oracle.objective.name)

    def _train(self, trial, folder):
        """Trains, from the checkpoint if there is one; returns what is known then."""
        values, begin = trial.hyperparameters.values, time.monotonic()
        checkpoints = folder / "checkpoints"
        if "tuner/trial_id" in values:
            _copy_folder(self._trial_folder(_number(values["tuner/trial_id"])) / "checkpoints", checkpoints)
        # What the setting draws and shuffles must not depend on what this process has done before.
        keras.utils.set_random_seed(self._seed)
        arguments = fit_arguments(self._setting, trial.hyperparameters)
        config, log_folder = arguments["config"], self._folder / "tensorboard" / folder.name
        arguments["config"] = dataclasses.replace(
            config,
            checkpoint_folder=checkpoints,
            log_folder=config.log_folder and log_folder,
            epochs=values.get("tuner/epochs", config.epochs),
        )
        arguments["callbacks"] = [*arguments.get("callbacks", ()), HyperParameters(log_folder, _own(values))]
        history, problem = {}, None
        try:
            history = fit(**arguments).history.history
        except tf.errors.ResourceExhaustedError as error:
            problem = f"it does not fit in memory: {error.message}"
        except Exception as error:
            raise keras_tuner.errors.FatalRuntimeError(
                f"trial {_number(trial.trial_id)} ended in an error, with {_listed(values)}: {error}"
            ) from error
        gc.collect()  # A model and its graphs refer to one another.
        score = epoch = None
        if problem is None:
            score, epoch = self._score(history)
            problem = None if epoch else f"`{self.oracle.objective.name}` was never a finite number"
        return {"score": score, "epoch": epoch, "seconds": time.monotonic() - begin, "problem": problem}

    def _score(self, history):
        name = self.oracle.objective.name
        if name not in history:
            raise keras_tuner.errors.FatalValueError(
                f"`objective` must be among the logs, which are {', '.join(history)}. Received: objective={name!r}"
            )
        finite = [(value, epoch) for epoch, value in enumerate(history[name], 1) if math.isfinite(value)]
        return min(finite, key=lambda pair: self._order(pair[0]), default=(None, None))

    def _order(self, score):
        """What is smaller the better a score is."""
        if score is None:
            return math.inf
        return -score if self.oracle.objective.direction == "max" else score

    def _trial_folder(self, number):
        return self._folder / f"trial-{number:04d}"

    def _remove_all_checkpoints_but_the_best(self):
        best = self.oracle.get_best_trials(1)
        for trial in self.oracle.trials.values():
            if trial not in best:
                shutil.rmtree(self._trial_folder(_number(trial.trial_id)) / "checkpoints", ignore_errors=True)

    def _identify(self, search):
        """Writes down what is searched, or compares it with what was."""
        path = self._folder / "search.json"
        search = json.loads(json.dumps(search))
        before = _read(path)
        changed = [name for name in before if before[name] != search[name]]
        if changed:
            differences = "; ".join(f"{name} {before[name]!r} there, {search[name]!r} here" for name in changed)
            raise ValueError(
                f"`folder` must be empty or hold this same search, and holds one with {differences}. Received: "
                f"folder={str(self._folder)!r}"
            )
        if not before:
            _write(path, search)

    def _report(self, number, record):
        if not self._progress:
            return
        name, of = self.oracle.objective.name, f" of {self._max_trials}" if self._max_trials else ""
        outcome = f"failed, {record['problem']}" if record["score"] is None else f"{name} {record['score']:.5g}"
        best = "" if self._best is None else f", best before {self._best['score']:.5g}"
        details = f"{record['seconds']:.1f} s, {_listed(record['values'])}"
        print(f"trial {number}{of}: {outcome}{best}, {details}", flush=True)


def _number(trial_id):
    return int(trial_id) + 1


def _own(values):
    """The hyper-parameters of the setting, without those by which Hyperband tells its plan."""
    return {name: value for name, value in values.items() if not name.startswith("tuner/")}


def _listed(values):
    return ", ".join(f"{name}={value!r}" for name, value in _own(values).items())


def _copy_folder(source, target):
    """Copies a folder whole or not at all, unless it has been, or the source is gone."""
    if source.exists() and not target.exists():
        temporary = target.with_suffix(".copying")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary)
        temporary.rename(target)


def _read(path):
    return json.loads(path.read_text()) if path.exists() else {}


def _write(path, content):
    """Writes a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".writing")
    with temporary.open("w") as file:
        json.dump(content, file, indent=1, default=lambda value: value.item())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
