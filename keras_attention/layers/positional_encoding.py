"""Sinusoidal positions, added to a sequence."""

import math

import keras
from keras import ops


def sinusoids(positions, size, max_wavelength=10_000.0):
    """The sinusoidal encoding of positions (or distances), float32 [T, D], for int [T] and D = `size`."""
    # Angles in float32: in bfloat16 neighbouring positions beyond 256 would share one.
    exponents = ops.arange(0, size, 2, dtype="float32") * (-math.log(max_wavelength) / size)
    angles = ops.cast(positions, "float32")[:, None] * ops.exp(exponents)[None, :]
    pairs = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)  # [T, D / 2, 2]
    return ops.reshape(pairs, (ops.shape(pairs)[0], 2 * pairs.shape[1]))[:, :size]


@keras.saving.register_keras_serializable("keras_attention")
class PositionalEncoding(keras.layers.Layer):
    """Adds the sinusoidal encoding of each position to its vector; it has no weights and fits any length.

    PE(p, 2i) = sin(p / max_wavelength^(2i/D)),  PE(p, 2i+1) = cos(p / max_wavelength^(2i/D))

    Masking: the mask of the input is passed on.

    Args:
        max_wavelength: float, positive. The wavelength of the slowest sinusoid, over 2 pi.

    Call arguments:
        inputs: float [B, T, D].
        start_index: int or int32 scalar, the position of the first vector.

    Returns:
        float [B, T, D].

    Raises:
        ValueError: if `max_wavelength` is not positive.

    Example:

    >>> import numpy as np
    >>> from keras_attention.layers import PositionalEncoding
    >>> PositionalEncoding()(np.zeros((1, 2, 4), "float32")).numpy().round(3)
    array([[[0.   , 1.   , 0.   , 1.   ],
            [0.841, 0.54 , 0.01 , 1.   ]]], dtype=float32)

    Reference: Vaswani et al. 2017, Attention Is All You Need, section 3.5 (page 6), https://arxiv.org/abs/1706.03762
    """

    def __init__(self, max_wavelength=10_000.0, **kwargs):
        if not max_wavelength > 0:
            raise ValueError(f"`max_wavelength` must be positive. Received: max_wavelength={max_wavelength!r}")
        super().__init__(**kwargs)
        self.supports_masking = True
        self.max_wavelength = max_wavelength

    def build(self, inputs_shape):
        pass

    def call(self, inputs, start_index=0):
        positions = ops.arange(ops.shape(inputs)[1], dtype="int32") + start_index
        return inputs + ops.cast(sinusoids(positions, inputs.shape[-1], self.max_wavelength), inputs.dtype)

    def compute_output_shape(self, inputs_shape, start_index_shape=None):
        return inputs_shape

    def get_config(self):
        return {**super().get_config(), "max_wavelength": self.max_wavelength}
