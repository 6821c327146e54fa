"""Rotary positions: queries and keys are turned by their position, so that their product knows the distance."""

import math

import keras
import numpy as np
from keras import ops

from keras_attention.specification import Specification

_SCALINGS = (None, "linear", "ntk", "yarn")


@keras.saving.register_keras_serializable("keras_attention")
class RotaryPosition(Specification):
    """Turns pairs of features of a query or key by angles that grow with its position.

    Pair i at position p is turned by p * theta_i, with theta_i = max_wavelength^(-2i/R) for the R features that take
    part. The product of a turned query and a turned key depends on their contents and their distance only. It has no
    weights and is no layer: a static description, like the masks, for `MultiHeadAttention(position=...)`.

    To run a model on texts `factor` times longer than those it was trained on, `scaling` slows the angles:

    - "linear" (Chen et al.): all of them, theta_i / factor.
    - "ntk": the first not at all and the last by `factor`, as if max_wavelength were max_wavelength * factor^(R/(R-2)).
    - "yarn" (Peng et al.): pairs that turn more than `beta_fast` times within `original_length` keep their angle, those
      that turn less than `beta_slow` times are divided by `factor`, between them it is a linear ramp over i, as in the
      published code (the paper's equation ramps over the number of turns). The scores are also to be multiplied by
      `attention_scale`, which whoever computes them must do.

    Args:
        max_wavelength: float, positive. The wavelength of the slowest pair, over 2 pi; also called base or theta.
        scaling: None, "linear", "ntk" or "yarn".
        factor: float, at least 1. How many times longer the texts may be. 1 changes nothing.
        original_length: int, the length that the model was trained on. For "yarn", which needs it, only.
        rotary_dim: int, R, even. The first R features of a head are turned, the others pass. Defaults to all.
        interleaved: bool. Pairs are neighbours (2i, 2i+1), as in the paper and GPT-J, rather than (i, i + R/2), as in
            GPT-NeoX and Llama. Weights trained with one layout need that layout.
        beta_fast, beta_slow: float, the numbers of turns between which "yarn" ramps.

    Attributes:
        attention_scale: float, what the scores are to be multiplied with: (0.1 ln(factor) + 1)^2 for "yarn", else 1.

    Raises:
        ValueError: for arguments out of range, at construction, and for an odd head size or one below `rotary_dim`.

    Example:

    >>> import numpy as np
    >>> from keras_attention.layers import RotaryPosition
    >>> RotaryPosition().rotate(np.ones((1, 2, 1, 4), "float32"), np.arange(2)).numpy().round(2)[0, :, 0]
    array([[ 1.  ,  1.  ,  1.  ,  1.  ],
           [-0.3 ,  0.99,  1.38,  1.01]], dtype=float32)

    References: Su et al. 2021, RoFormer, section 3.2.2, https://arxiv.org/abs/2104.09864; Chen et al. 2023, Extending
    Context Window of Large Language Models via Positional Interpolation, section 2.3,
    https://arxiv.org/abs/2306.15595; Peng et al. 2023, YaRN, sections 3.1 to 3.4, https://arxiv.org/abs/2309.00071,
    and its code, https://github.com/jquesnelle/yarn
    """

    def __init__(
        self,
        max_wavelength=10_000.0,
        scaling=None,
        factor=1.0,
        original_length=None,
        rotary_dim=None,
        interleaved=False,
        beta_fast=32.0,
        beta_slow=1.0,
    ):
        if not max_wavelength > 1:
            raise ValueError(f"`max_wavelength` must be above 1. Received: max_wavelength={max_wavelength!r}")
        if scaling not in _SCALINGS:
            raise ValueError(f"`scaling` must be one of {_SCALINGS}. Received: scaling={scaling!r}")
        if not factor >= 1 or (scaling is None and factor != 1):
            raise ValueError(
                "`factor` must be at least 1, and is 1 without a `scaling`. "
                f"Received: factor={factor!r} with scaling={scaling!r}"
            )
        if (scaling == "yarn") != (original_length is not None):
            raise ValueError(
                "`original_length` must be given for scaling='yarn' and for nothing else. "
                f"Received: original_length={original_length!r} with scaling={scaling!r}"
            )
        for name, value in (("original_length", original_length), ("rotary_dim", rotary_dim)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value <= 0):
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
        if rotary_dim is not None and rotary_dim % 2:
            raise ValueError(f"`rotary_dim` must be even. Received: rotary_dim={rotary_dim!r}")
        if not beta_fast > beta_slow > 0:
            raise ValueError(
                "`beta_fast` must be above `beta_slow`, and both positive. "
                f"Received: beta_fast={beta_fast!r}, beta_slow={beta_slow!r}"
            )
        self.max_wavelength = max_wavelength
        self.scaling = scaling
        self.factor = factor
        self.original_length = original_length
        self.rotary_dim = rotary_dim
        self.interleaved = interleaved
        self.beta_fast = beta_fast
        self.beta_slow = beta_slow
        self.attention_scale = (0.1 * math.log(factor) + 1) ** 2 if scaling == "yarn" else 1.0

    def rotate(self, x, positions):
        """Turns queries or keys by their positions.

        Args:
            x: float [B, T, N, H].
            positions: int [T] or [B, T].

        Returns:
            [B, T, N, H], in the type of `x`. It is computed in float32 at least: in bfloat16 neighbouring positions
            beyond 256 would share their angles.
        """
        size = self.rotary_dim or x.shape[-1]
        if size % 2 or size > x.shape[-1]:
            raise ValueError(
                "the size of a head must be even and at least `rotary_dim`. "
                f"Received: x of shape {tuple(x.shape)} with rotary_dim={self.rotary_dim}"
            )
        x = ops.convert_to_tensor(x)
        dtype = keras.backend.result_type(x.dtype, "float32")
        angles = ops.cast(positions, dtype)[..., None, None] * ops.cast(
            self.frequencies(size), dtype
        )  # [.., T, 1, R/2]
        cos, sin = ops.cos(angles), ops.sin(angles)
        turning = ops.cast(x[..., :size], dtype)
        if self.interleaved:
            first, second = turning[..., 0::2], turning[..., 1::2]
        else:
            first, second = turning[..., : size // 2], turning[..., size // 2 :]
        turned = [first * cos - second * sin, second * cos + first * sin]
        if self.interleaved:
            turned = ops.reshape(ops.stack(turned, axis=-1), ops.shape(turning))
        else:
            turned = ops.concatenate(turned, axis=-1)
        return ops.concatenate([ops.cast(turned, x.dtype), x[..., size:]], axis=-1)

    def frequencies(self, size):
        """theta_i, the angle of each pair between two neighbouring positions.

        Args:
            size: int, R, the number of features that are turned.

        Returns:
            float64 numpy array [R/2].
        """
        pairs = np.arange(size // 2)
        plain = self.max_wavelength ** (-2.0 * pairs / size)
        if self.scaling == "linear":
            return plain / self.factor
        if self.scaling == "ntk":
            return plain * self.factor ** (-2.0 * pairs / max(size - 2, 1))
        if self.scaling == "yarn":
            first = max(math.floor(self._pair_that_turns(self.beta_fast, size)), 0)
            last = min(math.ceil(self._pair_that_turns(self.beta_slow, size)), size - 1)
            slowed = np.clip((pairs - first) / max(last - first, 0.001), 0, 1)
            return plain * (1 - slowed) + plain / self.factor * slowed
        return plain

    def _pair_that_turns(self, turns, size):
        """The i, a fraction, of the pair that makes so many turns within `original_length` positions."""
        return size * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(self.max_wavelength))

    def get_config(self):
        return {
            "max_wavelength": self.max_wavelength,
            "scaling": self.scaling,
            "factor": self.factor,
            "original_length": self.original_length,
            "rotary_dim": self.rotary_dim,
            "interleaved": self.interleaved,
            "beta_fast": self.beta_fast,
            "beta_slow": self.beta_slow,
        }
