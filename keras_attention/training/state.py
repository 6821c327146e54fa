"""What a run must remember to go on as if it had never stopped."""

import dataclasses
import itertools
import json
import re

import keras
import numpy as np
import tensorflow as tf


@dataclasses.dataclass
class Progress:
    """Where a run is, apart from its variables.

    Attributes:
        epoch: int, the epochs that are over.
        epoch_steps: int, the batches of the present one.
        step: int, all batches so far.
        passes: int, the passes through the data that are over.
        pass_batches: int, the batches used of the present one.
        sums: dict of [float, float] by the name of the log: the sum of the losses of the present epoch, each times its
            rows, and the sum of the rows.
        stopped: bool, whether a callback has ended the run.
        first_batch: int, of the data, as `Feed` tells it.
        validations: list of int: for each validation that is over, the passes through the data begun before it.
        stopping: bool, whether a callback has asked for the end after the present epoch.
    """

    epoch: int = 0
    epoch_steps: int = 0
    step: int = 0
    passes: int = 0
    pass_batches: int = 0
    sums: dict = dataclasses.field(default_factory=dict)
    stopped: bool = False
    first_batch: int = 0
    validations: list = dataclasses.field(default_factory=list)
    stopping: bool = False

    def add(self, losses, rows):
        """Counts a batch's losses; returns the means of the epoch so far."""
        for name, value in losses.items():
            total = self.sums.setdefault(name, [0.0, 0.0])
            total[0] += value * rows
            total[1] += rows
        return self.means()

    def means(self):
        """The mean losses of the epoch so far, by the name of the log."""
        return {name: total / (rows or 1.0) for name, (total, rows) in self.sums.items()}


class RunState:
    """The variables, random seeds, callbacks and progress of a run, as arrays and a JSON object.

    Args:
        model: `keras.Model`, compiled and built.
        random_states: `RandomStates` of it.
        callbacks: list of `keras.callbacks.Callback`, the run's history among them.
    """

    def __init__(self, model, random_states, callbacks):
        self._random_states = random_states
        # By kind and number among its kind: other workers lack those that write files.
        kinds = [type(callback).__name__ for callback in callbacks]
        self._callbacks = {f"{k}-{kinds[:n].count(k)}": callbacks[n] for n, k in enumerate(kinds)}
        seeds = {id(variable) for variable in random_states.variables}
        self._variables = {
            "model": [variable for variable in model.variables if id(variable) not in seeds],
            "optimizer": model.optimizer.variables,
            "metric": model.metrics_variables,
        }

    def capture(self, progress):
        """The state.

        Args:
            progress: `Progress`.

        Returns:
            (arrays, state): dict of numpy arrays, and what JSON can hold.
        """
        arrays = {name: array for group in self._variables for name, array in self._arrays(group).items()}
        arrays["seeds"] = np.array(self._random_states.seeds, np.int64).reshape(-1, 2)
        states = {}
        for key, callback in self._callbacks.items():
            states[key] = _callback_state(callback)
            for name in [name for name, value in states[key].items() if _is_arrays(value)]:
                for index, array in enumerate(states[key].pop(name)):
                    arrays[f"callback/{key}/{name}/{index:06d}"] = _plain(np.asarray(array))
        state = {"progress": dataclasses.asdict(progress), "callbacks": states}
        return arrays, json.loads(json.dumps(state, default=_to_json))

    def capture_metrics(self):
        """The arrays of the metrics alone, for `restore_metrics`."""
        return self._arrays("metric")

    def _arrays(self, group):
        return {
            f"{group}/{number:06d}/{variable.path}": _plain(np.array(variable))
            for number, variable in enumerate(self._variables[group])
        }

    def check(self, arrays, path):
        """Refuses the checkpoint of another model.

        Args:
            arrays: dict of numpy arrays, as `capture` gave them.
            path: of the file, for the message.

        Raises:
            ValueError: with the weights that differ.
        """
        for group in self._variables:
            saved = [(name.split("/", 2)[2], arrays[name].shape) for name in _names(arrays, group)]
            ours = [(variable.path, tuple(variable.shape)) for variable in self._variables[group]]
            differences = [
                f"{_describe(theirs)} in the checkpoint, {_describe(own)} here"
                for theirs, own in itertools.zip_longest(saved, ours)
                if _unnumbered(theirs) != _unnumbered(own)
            ]
            if differences:
                more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
                raise ValueError(
                    f"the checkpoint is one of another model, or of one with another optimizer or metrics: "
                    f"{'; '.join(differences[:5])}{more}. Give `checkpoint_folder` another folder to start anew. "
                    f"Received: {path}"
                )
        if len(arrays["seeds"]) != len(self._random_states.seeds):
            raise ValueError(
                f"the checkpoint is one of a model with {len(arrays['seeds'])} seed generators, and this one has "
                f"{len(self._random_states.seeds)}. Received: {path}"
            )

    def restore_variables(self, arrays):
        """Gives the variables and the seeds their values; metrics too, which the start of an epoch resets."""
        for group, variables in self._variables.items():
            for name, variable in zip(_names(arrays, group), variables, strict=True):
                variable.assign(tf.cast(arrays[name], variable.dtype))
        self._random_states.seeds = list(arrays["seeds"])

    def restore_metrics(self, arrays):
        """Gives the metrics the values that they had in the middle of the epoch."""
        for name, variable in zip(_names(arrays, "metric"), self._variables["metric"], strict=True):
            variable.assign(tf.cast(arrays[name], variable.dtype))

    def restore_callbacks(self, arrays, state):
        """Gives the callbacks what they knew, as far as there were any of their kind."""
        for key, callback in self._callbacks.items():
            saved = dict(state["callbacks"].get(key, {}))
            for name in _names(arrays, f"callback/{key}"):
                saved.setdefault(name.split("/")[2], []).append(arrays[name])
            if hasattr(callback, "set_state") and key in state["callbacks"]:
                callback.set_state(saved)
            else:
                for name, value in saved.items():
                    setattr(callback, name, value)


# What Keras's callbacks learn in a run. Others tell by methods `get_state`, which returns a dict, and `set_state`.
_LEARNED = {
    keras.callbacks.History: ("history", "epoch"),
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: ("best",),
}


def _callback_state(callback):
    if hasattr(callback, "get_state"):
        return dict(callback.get_state())
    names = next((names for kind, names in _LEARNED.items() if isinstance(callback, kind)), ())
    return {name: getattr(callback, name) for name in names if hasattr(callback, name)}


def _is_arrays(value):
    return isinstance(value, list) and bool(value) and all(isinstance(array, np.ndarray) for array in value)


def _plain(array):
    """An array of a type that numpy can save: bfloat16 is one that only extensions know."""
    return array.astype(np.float32) if array.dtype.kind == "V" or array.dtype.name == "bfloat16" else array


def _names(arrays, group):
    return sorted(name for name in arrays if name.startswith(f"{group}/"))


def _describe(variable):
    return "nothing" if variable is None else f"{variable[0]} {list(variable[1])}"


def _unnumbered(variable):
    """Without the numbers that Keras gives to layers of a kind, which depend on what was built before."""
    return variable and (re.sub(r"_\d+(?=/|_|$)", "", variable[0]), tuple(variable[1]))


def _to_json(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    if hasattr(value, "numpy"):
        return _to_json(value.numpy())
    return value.item()
