"""Relative positions as in Transformer-XL: a part of the score that depends on query and distance."""

import math

import keras
from keras import initializers, ops

from keras_attention.biases import Bias
from keras_attention.layers.positional_encoding import sinusoids


@keras.saving.register_keras_serializable("keras_attention")
class TransformerXLPosition(keras.layers.Layer):
    """For `MultiHeadAttention(position=...)`: scores that know the content, the distance, and both together.

    With r the sinusoidal encoding of the distance t - s, and W_r, u and v weights, the score of a query q at t and a
    key k at s is scale * ((q + u) . k + (q + v) . W_r r(t - s)). It depends on the distance only, so that the states of
    a segment can be attended to from the next one.

    The layer that has it builds it for its heads; one that several layers share has the same weights in all of them.

    Args:
        encoding_dim: int, even, the size of r. Defaults to N * H, the size of all heads.
        kernel_initializer: initializer of W_r.

    Raises:
        ValueError: if `encoding_dim` is no positive even integer.

    Example:

    >>> import numpy as np
    >>> from keras_attention.layers import MultiHeadAttention, TransformerXLPosition
    >>> layer = MultiHeadAttention(num_heads=4, key_dim=8, position=TransformerXLPosition())
    >>> x = np.zeros((2, 5, 32), "float32")
    >>> layer(x, x, use_causal_mask=True).shape
    TensorShape([2, 5, 32])

    Reference: Dai et al. 2019, Transformer-XL, section 3.3 (pages 5 and 6), https://arxiv.org/abs/1901.02860
    """

    def __init__(self, encoding_dim=None, kernel_initializer="glorot_uniform", **kwargs):
        if encoding_dim is not None and (not isinstance(encoding_dim, int) or encoding_dim <= 0 or encoding_dim % 2):
            raise ValueError(f"`encoding_dim` must be a positive even integer. Received: encoding_dim={encoding_dim!r}")
        super().__init__(**kwargs)
        self.encoding_dim = encoding_dim
        self.kernel_initializer = initializers.get(kernel_initializer)

    def build(self, query_shape):
        heads = tuple(query_shape[-2:])
        self.content_bias = self.add_weight(shape=heads, initializer="zeros", name="content_bias")
        self.position_bias = self.add_weight(shape=heads, initializer="zeros", name="position_bias")
        size = 2 * (math.prod(heads) // 2) if self.encoding_dim is None else self.encoding_dim
        self.kernel = self.add_weight(
            shape=(size, math.prod(heads)), initializer=self.kernel_initializer.clone(), name="kernel"
        )

    def query_and_bias(self, query, scale, offset=0, key_positions=None):
        """What the product with the keys, and what the bias of attention is to be.

        Args:
            query: float [B, T, N, H].
            scale: float, what the scores are multiplied with.
            offset: int or int32 scalar, the position of the first query.
            key_positions: int32 [S], the position of each key. Defaults to 0, 1, ..., S - 1.

        Returns:
            (query, bias): float [B, T, N, H] and a `keras_attention.biases.Bias`.
        """
        content, position, kernel = (
            ops.cast(weight, query.dtype) for weight in (self.content_bias, self.position_bias, self.kernel)
        )
        kernel = ops.reshape(kernel, (-1, *content.shape))
        return query + content, _Bias((query + position) * scale, kernel, offset, key_positions)

    def get_config(self):
        return {
            **super().get_config(),
            "encoding_dim": self.encoding_dim,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
        }


class _Bias(Bias):
    """(q + v) . W_r r(t - s), with a gradient to both; it belongs to one call of a layer."""

    def __init__(self, query, kernel, offset, key_positions):
        self.parameters = (query, kernel)
        self._offset = offset
        self._key_positions = key_positions

    def tile(self, rows, columns, *parameters):
        query, kernel = parameters or self.parameters
        positions = columns if self._key_positions is None else ops.take(self._key_positions, columns, axis=0)
        distance = (rows + self._offset)[..., :, None] - positions[..., None, :]  # [..., t, s]
        # Consecutive queries and keys have so many distances between them; what lies outside is masked.
        count = ops.shape(distance)[-2] + ops.shape(distance)[-1] - 1
        nearest = ops.min(distance)
        encoded = sinusoids(nearest + ops.arange(count, dtype="int32"), kernel.shape[0])
        relative = ops.einsum("de,enh->dnh", ops.cast(encoded, kernel.dtype), kernel)
        tiles = "g" * (len(rows.shape) - 1)
        scores = ops.einsum(f"b{tiles}tnh,dnh->bn{tiles}td", ops.take(query, rows, axis=1), relative)
        which = ops.broadcast_to(
            ops.clip(distance - nearest, 0, count - 1), (*ops.shape(scores)[:-1], ops.shape(distance)[-1])
        )
        return ops.take_along_axis(scores, which, axis=-1)
