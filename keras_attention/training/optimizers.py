"""The optimizer that transformers are trained with, from a config."""

import dataclasses
from typing import Literal

import keras

from keras_attention.training.schedules import WarmupCosine, WarmupInverseSquareRoot, WarmupLinear

Schedule = Literal["constant", "inverse_square_root", "linear", "cosine"]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, its schedule and what is done to gradients and weights.

    Attributes:
        learning_rate: the highest learning rate.
        schedule: how it falls after the warm-up: not at all ("constant", which takes no warm-up and can be changed by
            callbacks), as "inverse_square_root" of the step, "linear" or as a "cosine", these two to zero.
        warmup_steps: updates in which it rises from zero.
        total_steps: updates to the end of a linear or cosine fall.
        weight_decay: the share of a weight, times the learning rate, that an update takes away.
        no_weight_decay: words; a variable that has one in its name does not decay.
        clipnorm: the greatest length of each variable's gradient.
        global_clipnorm: the greatest length of all gradients together.
        ema_momentum: keep a moving average of the weights with this momentum, which becomes the model's weights when
            training ends.
        beta_1: decay of the gradient's first moment.
        beta_2: decay of the second.
        epsilon: added to the square root of the second moment.

    Raises:
        ValueError: if values are missing or do not go together.
    """

    learning_rate: float = 1e-3
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    total_steps: int | None = None
    weight_decay: float = 0.01
    no_weight_decay: tuple[str, ...] = ("bias", "gamma", "beta", "scale")
    clipnorm: float | None = None
    global_clipnorm: float | None = None
    ema_momentum: float | None = None
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self):
        if self.schedule not in Schedule.__args__:
            raise ValueError(
                f"`schedule` must be among {', '.join(Schedule.__args__)}. Received: schedule={self.schedule!r}"
            )
        if self.schedule == "constant" and self.warmup_steps:
            raise ValueError(
                "`warmup_steps` must be 0 with a constant schedule. Received: "
                f"warmup_steps={self.warmup_steps!r} with schedule='constant'"
            )
        if (self.schedule in ("linear", "cosine")) != (self.total_steps is not None):
            raise ValueError(
                "`total_steps` must be given with a linear or a cosine schedule and with no other. Received: "
                f"total_steps={self.total_steps!r} with schedule={self.schedule!r}"
            )
        if self.clipnorm is not None and self.global_clipnorm is not None:
            raise ValueError(
                "only one of `clipnorm` and `global_clipnorm` may be given. Received: "
                f"clipnorm={self.clipnorm!r}, global_clipnorm={self.global_clipnorm!r}"
            )


def make_optimizer(config=None):
    """The optimizer of a config, to compile a model with.

    Args:
        config: `OptimizerConfig`. Defaults to one with its defaults.

    Returns:
        `keras.optimizers.AdamW`.

    Example:

    >>> from keras_attention.training import OptimizerConfig, make_optimizer
    >>> optimizer = make_optimizer(OptimizerConfig(schedule="linear", warmup_steps=10, total_steps=100))
    >>> optimizer.name
    'adamw'

    Reference: Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, https://arxiv.org/abs/1711.05101
    """
    config = config or OptimizerConfig()
    averaging = {} if config.ema_momentum is None else {"use_ema": True, "ema_momentum": config.ema_momentum}
    optimizer = keras.optimizers.AdamW(
        _learning_rate(config),
        weight_decay=config.weight_decay,
        beta_1=config.beta_1,
        beta_2=config.beta_2,
        epsilon=config.epsilon,
        clipnorm=config.clipnorm,
        global_clipnorm=config.global_clipnorm,
        name="adamw",
        **averaging,
    )
    if config.no_weight_decay:
        optimizer.exclude_from_weight_decay(var_names=list(config.no_weight_decay))
    return optimizer


def _learning_rate(config):
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "inverse_square_root":
        return WarmupInverseSquareRoot(config.learning_rate, config.warmup_steps)
    schedule = {"linear": WarmupLinear, "cosine": WarmupCosine}[config.schedule]
    return schedule(config.learning_rate, config.warmup_steps, config.total_steps)
