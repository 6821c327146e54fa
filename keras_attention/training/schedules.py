"""Learning rates that rise from zero and fall again."""

import math

import keras
from keras import ops


class _Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """`peak * step / warmup_steps` up to the peak, and `peak` times what `_after` says from there on."""

    def __init__(self, peak, warmup_steps):
        if peak <= 0:
            raise ValueError(f"`peak` must be positive. Received: peak={peak!r}")
        if not isinstance(warmup_steps, int) or warmup_steps < 0:
            raise ValueError(f"`warmup_steps` must be an integer from 0 on. Received: warmup_steps={warmup_steps!r}")
        self.peak = peak
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        # The first update is number 0, and a rate of zero would waste it.
        step = ops.cast(step, "float32") + 1.0
        warmup = ops.minimum(step / max(self.warmup_steps, 1), 1.0)
        return self.peak * ops.where(step < self.warmup_steps, warmup, self._after(step))

    def get_config(self):
        return {"peak": self.peak, "warmup_steps": self.warmup_steps}


class _Decay(_Warmup):
    def __init__(self, peak, warmup_steps, total_steps, final=0.0):
        super().__init__(peak, warmup_steps)
        if not isinstance(total_steps, int) or total_steps <= warmup_steps:
            raise ValueError(
                f"`total_steps` must be an integer above `warmup_steps`. Received: total_steps={total_steps!r} with "
                f"warmup_steps={warmup_steps!r}"
            )
        if not 0 <= final <= 1:
            raise ValueError(f"`final` must be from 0 to 1, a fraction of the peak. Received: final={final!r}")
        self.total_steps = total_steps
        self.final = final

    def _after(self, step):
        done = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.final + (1.0 - self.final) * self._left(ops.clip(done, 0.0, 1.0))

    def get_config(self):
        return {**super().get_config(), "total_steps": self.total_steps, "final": self.final}


@keras.saving.register_keras_serializable("keras_attention")
class WarmupInverseSquareRoot(_Warmup):
    """Rises in a straight line, then falls as 1 / sqrt(step): halved when the steps are four times the warm-up.

    Args:
        peak: float, the highest rate, reached at the end of the warm-up.
        warmup_steps: int, updates up to there.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> from keras_attention.training import WarmupInverseSquareRoot
    >>> round(float(WarmupInverseSquareRoot(peak=1.0, warmup_steps=100)(399)), 4)
    0.5

    Reference: Vaswani et al. 2017, Attention Is All You Need, equation 3, https://arxiv.org/abs/1706.03762
    """

    def _after(self, step):
        return ops.sqrt(max(self.warmup_steps, 1) / step)


@keras.saving.register_keras_serializable("keras_attention")
class WarmupLinear(_Decay):
    """Rises in a straight line and falls in one.

    Args:
        peak: float, the highest rate, reached at the end of the warm-up.
        warmup_steps: int, updates up to there.
        total_steps: int, updates to the end of the fall; the rate stays there.
        final: float from 0 to 1, the rate at the end as a fraction of the peak.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> from keras_attention.training import WarmupLinear
    >>> round(float(WarmupLinear(peak=1.0, warmup_steps=10, total_steps=110)(59)), 4)
    0.5

    Reference: Devlin et al. 2019, BERT, appendix A.2, https://arxiv.org/abs/1810.04805
    """

    def _left(self, done):
        return 1.0 - done


@keras.saving.register_keras_serializable("keras_attention")
class WarmupCosine(_Decay):
    """Rises in a straight line and falls along half a cosine.

    Args:
        peak: float, the highest rate, reached at the end of the warm-up.
        warmup_steps: int, updates up to there.
        total_steps: int, updates to the end of the fall; the rate stays there.
        final: float from 0 to 1, the rate at the end as a fraction of the peak.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> from keras_attention.training import WarmupCosine
    >>> round(float(WarmupCosine(peak=1.0, warmup_steps=10, total_steps=110, final=0.1)(59)), 4)
    0.55

    Reference: Loshchilov & Hutter 2017, SGDR, equation 5, https://arxiv.org/abs/1608.03983
    """

    def _left(self, done):
        return 0.5 * (1.0 + ops.cos(math.pi * done))
