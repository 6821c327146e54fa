"""What a training run can be told, apart from the model and the data."""

import dataclasses
from pathlib import Path
from typing import Literal

from keras_attention.training.arguments import is_int

Strategy = Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        strategy: where to train. "one_device"; "mirrored": all GPUs of this host; "multi_worker": the hosts in the
            environment variable TF_CONFIG; "tpu", passed through and untested; "auto": "multi_worker" if TF_CONFIG
            names several workers, else "mirrored" if there are several GPUs, else "one_device".
        epochs: how often to go through the data.
        steps_per_epoch: batches in an epoch, for data without an end: the data is then gone through again and again,
            and an epoch ends after this many batches, wherever in the data that is. Defaults to all batches.
        validation_steps: batches of the validation data that are used. Defaults to all.
        mixed_precision: "float32", or compute in "mixed_bfloat16" or in "mixed_float16", which scales the loss.
        gradient_accumulation_steps: the parts that each replica's share of a batch is cut into, which go through the
            model one after the other, for batches that do not fit in memory. The update is the one of the whole batch:
            learning rate, schedule and result stay what they are.
        jit_compile: compile the forward and backward pass with XLA. Worth it on GPUs if lengths vary little: every new
            shape is compiled anew.
        seed: of the weights, the dropout and Python's and numpy's generators. None leaves them to chance.
        checkpoint_folder: where the state of the run is kept. None keeps nothing.
        checkpoint_every_steps: save after so many batches. Defaults to only at the end of epochs.
        checkpoint_every_epochs: save after so many epochs; the end of the run is always saved.
        keep_checkpoints: how many of the newest checkpoints to keep.
        resume: go on from the newest checkpoint in the folder if there is one. Without it the folder must have none.
        patience: stop after so many epochs without a better validation loss (or loss, without validation data), with
            the weights of the best epoch. None never stops early.
        log_gradient_norm: add `gradient_norm`, the length of the gradient before clipping, to the logs.
        log_folder: where the run writes curves, histograms of the weights and its graph for TensorBoard, and its
            history as `history.csv`; `log_gradient_norm` is then on. Give each run a folder of its own: one that
            begins anew takes the place of what is there. None writes nothing.
        progress: show a progress bar.

    Raises:
        ValueError: if a value makes no sense.

    Example:

    >>> from keras_attention.training import TrainingConfig
    >>> TrainingConfig(epochs=3, mixed_precision="mixed_bfloat16").epochs
    3
    """

    strategy: Strategy = "auto"
    epochs: int = 1
    steps_per_epoch: int | None = None
    validation_steps: int | None = None
    mixed_precision: Precision = "float32"
    gradient_accumulation_steps: int = 1
    jit_compile: bool = False
    seed: int | None = 0
    checkpoint_folder: Path | None = None
    checkpoint_every_steps: int | None = None
    checkpoint_every_epochs: int = 1
    keep_checkpoints: int = 2
    resume: bool = True
    patience: int | None = None
    log_gradient_norm: bool = False
    log_folder: Path | None = None
    progress: bool = True

    def __post_init__(self):
        for name, kind in (("strategy", Strategy), ("mixed_precision", Precision)):
            value = getattr(self, name)
            if value not in kind.__args__:
                raise ValueError(f"`{name}` must be among {', '.join(kind.__args__)}. Received: {name}={value!r}")
        for name in _POSITIVE:
            value = getattr(self, name)
            optional = type(self).__dataclass_fields__[name].default is None
            if not (value is None and optional) and not (is_int(value) and value > 0):
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
        if self.seed is not None and not (is_int(self.seed) and 0 <= self.seed < 2**32):
            raise ValueError(f"`seed` must be an integer from 0 to 2**32 - 1, or None. Received: seed={self.seed!r}")
        if self.checkpoint_every_steps is not None and self.checkpoint_folder is None:
            raise ValueError(
                "`checkpoint_every_steps` needs a `checkpoint_folder`. Received: "
                f"checkpoint_every_steps={self.checkpoint_every_steps!r} with checkpoint_folder=None"
            )


_POSITIVE = (
    "epochs",
    "steps_per_epoch",
    "validation_steps",
    "gradient_accumulation_steps",
    "checkpoint_every_steps",
    "checkpoint_every_epochs",
    "keep_checkpoints",
    "patience",
)
