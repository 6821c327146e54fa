"""The choices that a run was made with, beside what came of them, in TensorBoard."""

import dataclasses
from collections.abc import Mapping

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.api import hparams_pb
from tensorboard.plugins.hparams.summary import session_end_pb

from keras_attention.training.event_file import EventCallback, scalars


class HyperParameters(EventCallback):
    """A callback of `fit` that puts the run into the table of TensorBoard's HParams page.

    There the runs below one folder stand beside each other, each with its hyper-parameters and the history's last
    epoch; `tensorboard --logdir` wants the folder above those of the runs. Written to "hparams" in the folder.

    Args:
        folder: of the run, such as the `log_folder` of the config.
        values: dict or dataclass of the hyper-parameters. In dicts and dataclasses inside of it they are named like
            "optimizer.learning_rate". Numbers, bool and str stand for themselves, others as their str.

    Raises:
        ValueError: if `values` is neither, or empty.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import tensorflow as tf
    >>> import tempfile
    >>> from pathlib import Path
    >>> from keras_attention.training import HyperParameters, OptimizerConfig, TrainingConfig, fit, make_optimizer
    >>> runs = Path(tempfile.mkdtemp())
    >>> data = tf.data.Dataset.from_tensor_slices((np.ones((8, 1)), np.ones((8, 1)))).batch(4)
    >>> for rate in (0.1, 0.01):
    ...     optimizer = OptimizerConfig(learning_rate=rate)
    ...     def build():
    ...         model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    ...         model.compile(make_optimizer(optimizer), "mse")
    ...         return model
    ...     folder = runs / f"rate-{rate}"
    ...     config = TrainingConfig(log_folder=folder, progress=False)
    ...     _ = fit(build, data, config=config, callbacks=[HyperParameters(folder, optimizer)])
    >>> sorted(path.parent.name for path in runs.glob("*/hparams"))
    ['rate-0.01', 'rate-0.1']

    Reference: https://www.tensorflow.org/tensorboard/hyperparameter_tuning_with_hparams
    """

    folders = {"hparams": False}  # noqa: RUF012

    def __init__(self, folder, values):
        super().__init__(folder)
        if not _has_names(values):
            raise ValueError(f"`values` must be a dict or a dataclass. Received: values={values!r}")
        self.values = _flat(values)
        if not self.values:
            raise ValueError(f"`values` must hold a hyper-parameter at least. Received: values={values!r}")

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        # The page makes one line of the runs of one trial: here each is its own.
        self.files["hparams"].add(0, hparams_pb(self.values, trial_id=str(self.folder)))

    def on_epoch_end(self, epoch, logs=None):
        self.files["hparams"].add(self.progress.step, scalars("", logs))

    def on_train_end(self, logs=None):
        end = session_end_pb(api_pb2.STATUS_SUCCESS).SerializeToString()
        self.files["hparams"].add(0, Summary.FromString(end))
        super().on_train_end(logs)


def _has_names(values):
    return isinstance(values, Mapping) or (dataclasses.is_dataclass(values) and not isinstance(values, type))


def _flat(values, prefix=""):
    if not isinstance(values, Mapping):
        values = {field.name: getattr(values, field.name) for field in dataclasses.fields(values)}
    flat = {}
    for name, value in values.items():
        if _has_names(value):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            value = value.item() if hasattr(value, "item") else value
            flat[f"{prefix}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
