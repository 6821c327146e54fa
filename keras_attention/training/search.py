"""Search over hyper-parameters with keras-tuner, in which every trial is a run of `fit` that resumes exactly."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any, Literal, get_args

from keras_attention.training.config import TrainingConfig
from keras_attention.training.strategies import this_cluster

Algorithm = Literal["random", "grid", "bayesian", "hyperband"]


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """One trial of a search.

    Attributes:
        number: int, from 1, in the order of the search.
        values: dict of the hyper-parameters.
        score: float, the best value of the objective over the epochs, or None if the trial failed.
        epoch: int, the epoch of that value, from 1, or None.
        seconds: float, how long it trained, in the process that ended it.
        problem: str, why it failed, or None.
        folder: Path of its files.
    """

    number: int
    values: dict
    score: float | None
    epoch: int | None
    seconds: float
    problem: str | None
    folder: Path


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search found; as a string, a table.

    Attributes:
        trials: tuple of `TrialResult`, the best first, failed ones last.
        hyperparameters: `keras_tuner.HyperParameters` with the best values: `setting(result.hyperparameters)` gives the
            arguments of `fit` with them.
        objective: str.
    """

    trials: tuple[TrialResult, ...]
    hyperparameters: Any
    objective: str

    @property
    def best(self):
        """The best trial. The last state of its run is in the folder `checkpoints` of its folder."""
        return self.trials[0]

    def __str__(self):
        names = list(dict.fromkeys(name for trial in self.trials for name in trial.values))
        rows = [["trial", self.objective, "epoch", "seconds", *names]]
        for trial in self.trials:
            score = "failed" if trial.score is None else f"{trial.score:.5g}"
            values = [_short(trial.values.get(name, "")) for name in names]
            rows.append([str(trial.number), score, str(trial.epoch or ""), f"{trial.seconds:.1f}", *values])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(r, widths, strict=True)) for r in rows)


def search(setting, folder, algorithm="random", max_trials=None, objective="val_loss", seed=0, progress=True):
    """Looks for the hyper-parameters that train best.

    `setting` is a function of `keras_tuner.HyperParameters` that returns the arguments of `fit`, so that a
    hyper-parameter can reach any of them: the model, the batches, the `TrainingConfig`, the regularisers. It is called
    often and should be quick, which it is where `build` and the data are functions. A dataset that is shuffled must be
    made in it, or by such a function: one from outside counts its passes on from trial to trial.

    A search that was stopped or killed goes on when the same program is started again: trials that have ended are read
    from the folder, the one that was interrupted resumes from its checkpoint, and the search ends with the result of
    one that was not. keras-tuner's own state is not kept: with the same seed and the same scores its algorithms propose
    the same trials. `max_trials` may be raised to go on with a search that has ended.

    A trial without a finite value of the objective, or that does not fit in memory, counts as failed; any other error
    ends the search. Only the best trial keeps its checkpoints. TensorBoard's HParams page shows the trials with
    `tensorboard --logdir` of the folder `tensorboard` in the folder.

    Args:
        setting: function of `keras_tuner.HyperParameters` that returns a dict with `build` and `train`, and what else
            `fit` takes. The `checkpoint_folder` of its config, and the `log_folder` if there is one, are replaced by
            one for each trial.
        folder: where the trials are kept.
        algorithm: "random"; "grid", in which a `Float` without a `step` has 10 values; "bayesian", with a Gaussian
            process, which needs scikit-learn; "hyperband", which gives many trials few epochs and the best ones, which
            go on from their checkpoints, up to the epochs of the config.
        max_trials: int, how many at most. "grid" and "hyperband" end by themselves.
        objective: str, the name of a log such as "val_loss" or "val_accuracy", or a `keras_tuner.Objective` with a name
            and a direction.
        seed: int, of the proposals, and of what `setting` draws or shuffles.
        progress: bool, whether to print a line for each trial.

    Returns:
        `SearchResult`.

    Raises:
        ModuleNotFoundError: if keras-tuner is not installed.
        RuntimeError: if a trial ends in an error, with that error as its cause, or if three trials on end fail.
        ValueError: for an unknown algorithm, an objective that is not in the logs, several workers, or a folder that
            holds another search.

    Example:

    >>> import tempfile
    >>> import keras
    >>> import numpy as np
    >>> import tensorflow as tf
    >>> from keras_attention.training import TrainingConfig, search
    >>> data = tf.data.Dataset.from_tensor_slices((np.ones((8, 3)), np.ones((8, 1))))
    >>> def setting(hp):
    ...     rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
    ...     def build():
    ...         model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    ...         model.compile(keras.optimizers.Adam(rate), "mse")
    ...         return model
    ...     batches = data.batch(hp.Choice("batch_size", [4, 8]))
    ...     return {"build": build, "train": batches, "validation": batches, "config": TrainingConfig(progress=False)}
    >>> result = search(setting, tempfile.mkdtemp(), max_trials=2, progress=False)
    >>> sorted(result.best.values)
    ['batch_size', 'learning_rate']

    Reference: https://keras.io/keras_tuner/; Li et al. 2018, Hyperband, https://arxiv.org/abs/1603.06560
    """
    if algorithm not in get_args(Algorithm):
        raise ValueError(f"`algorithm` must be among {', '.join(get_args(Algorithm))}. Received: {algorithm=}")
    if max_trials is None and algorithm in ("random", "bayesian"):
        raise ValueError(f"`max_trials` must be given, since {algorithm!r} has no end. Received: max_trials=None")
    if max_trials is not None and (not isinstance(max_trials, int) or max_trials < 1):
        raise ValueError(f"`max_trials` must be a positive integer. Received: {max_trials=}")
    if len(this_cluster().workers) > 1:
        raise ValueError(
            "a search runs on one host, with the strategies 'one_device' and 'mirrored': unset TF_CONFIG, and give "
            f"each host a folder of its own. Received: TF_CONFIG with {len(this_cluster().workers)} workers"
        )
    try:
        from keras_attention.training.trials import Trials
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"`search` needs keras-tuner: pip install keras-tuner ({error})") from error

    with tempfile.TemporaryDirectory() as scratch:
        trials = Trials(setting, Path(folder), algorithm, max_trials, objective, seed, progress, scratch)
        trials.search()
        return trials.result()


def fit_arguments(setting, hyperparameters):
    """What a setting returns, with a `TrainingConfig` in it.

    Args:
        setting: function of `keras_tuner.HyperParameters`.
        hyperparameters: `keras_tuner.HyperParameters`.

    Returns:
        dict.

    Raises:
        ValueError: if it returns something else than the arguments of `fit`.
    """
    arguments = setting(hyperparameters)
    if not isinstance(arguments, dict) or not {"build", "train"} <= arguments.keys():
        raise ValueError(
            "`setting` must return the arguments of `fit` as a dict with `build` and `train` at least. Received: "
            f"{arguments!r}"
        )
    return {**arguments, "config": arguments.get("config") or TrainingConfig()}


def _short(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)
