"""A learned bias on the scores for every distance between query and key."""

import math

import keras
import numpy as np
from keras import initializers, ops

from keras_attention.biases import Bias


@keras.saving.register_keras_serializable("keras_attention")
class RelativePositionBias(keras.layers.Layer):
    """T5's bias: a scalar for each head and each range of distances, to be added to the scores.

    Half of the buckets stand for one distance each, the others for ranges that grow logarithmically up to
    `max_distance`; all that is farther shares the last. With `bidirectional`, keys after the query have half of the
    buckets; without, they share the bucket of distance 0, since a causal mask hides them. It answers for given
    positions; as a `keras_attention.biases.Bias`, which `as_bias` makes of it inside a call, an implementation of
    attention asks it tile by tile. T5's own attention does not scale the scores by 1 / sqrt(H).

    Args:
        num_heads: int, N.
        num_buckets: int; with `bidirectional` even.
        max_distance: int, the distance from which on all share a bucket.
        bidirectional: bool. False for a decoder's self-attention.
        embeddings_initializer: initializer of the biases.

    Call arguments:
        query_positions: int [t].
        key_positions: int [s].

    Returns:
        float [1, N, t, s], in the type of the weights: it is not rounded under mixed precision.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> import numpy as np
    >>> from keras_attention.layers import RelativePositionBias
    >>> RelativePositionBias(num_heads=4)(np.arange(3), np.arange(5)).shape
    TensorShape([1, 4, 3, 5])

    Reference: Raffel et al. 2020, Exploring the Limits of Transfer Learning, section 2.1 (page 5),
    https://arxiv.org/abs/1910.10683, and `_relative_position_bucket` of its code,
    https://github.com/tensorflow/mesh/blob/master/mesh_tensorflow/transformer/transformer_layers.py
    """

    def __init__(
        self,
        num_heads,
        num_buckets=32,
        max_distance=128,
        bidirectional=True,
        embeddings_initializer="uniform",
        **kwargs,
    ):
        sizes = {"num_heads": num_heads, "num_buckets": num_buckets, "max_distance": max_distance}
        for name, value in sizes.items():
            if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
        a_side = num_buckets // 2 if bidirectional else num_buckets
        if a_side < 2 or (bidirectional and num_buckets % 2):
            raise ValueError(
                "`num_buckets` must be at least 2, and even and at least 4 for `bidirectional`. "
                f"Received: num_buckets={num_buckets!r} with bidirectional={bidirectional!r}"
            )
        if max_distance <= a_side // 2:
            raise ValueError(
                f"`max_distance` must be above the distances that have a bucket each, here {a_side // 2}. "
                f"Received: max_distance={max_distance!r}"
            )
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.embeddings_initializer = initializers.get(embeddings_initializer)
        self._bucket_of_distance = self._bucket_table(a_side)

    def _bucket_table(self, a_side):
        """The bucket of every distance from 0 to `max_distance`, int32 numpy array."""
        single = a_side // 2  # distances below it have a bucket each
        ranges = [
            # In the published order of operations: another one rounds some distances into the next bucket.
            single + int(math.log(distance / single) / math.log(self.max_distance / single) * (a_side - single))
            for distance in range(single, self.max_distance + 1)
        ]
        return np.minimum([*range(single), *ranges], a_side - 1).astype("int32")

    def build(self, query_positions_shape=None, key_positions_shape=None):
        self.embeddings = self.add_weight(
            shape=(self.num_buckets, self.num_heads),
            initializer=self.embeddings_initializer.clone(),
            autocast=False,
            name="embeddings",
        )

    def call(self, query_positions, key_positions):
        return self.tile(query_positions, key_positions, self.embeddings)

    def tile(self, query_positions, key_positions, embeddings):
        """The bias from the given embeddings, [num_buckets, N], which stand in for the weights."""
        bias = ops.take(embeddings, self.buckets(query_positions, key_positions), axis=0)  # [..., t, s, N]
        return ops.moveaxis(bias, -1, 0)[None]

    def buckets(self, query_positions, key_positions):
        """The bucket of each query and key, int32 [t, s]."""
        offset = ops.cast(key_positions, "int32")[..., None, :] - ops.cast(query_positions, "int32")[..., :, None]
        distance = ops.abs(offset) if self.bidirectional else ops.maximum(-offset, 0)
        bucket = ops.take(self._bucket_of_distance, ops.minimum(distance, self.max_distance), axis=0)
        if self.bidirectional:
            bucket = bucket + ops.cast(offset > 0, "int32") * (self.num_buckets // 2)
        return bucket

    def as_bias(self):
        """The bias for `keras_attention.ops.dot_product_attention`, which belongs to one call of a layer."""
        if not self.built:
            self.build()
        return _Bias(self)

    def compute_output_spec(self, query_positions, key_positions):
        shape = self.compute_output_shape(query_positions.shape, key_positions.shape)
        return keras.KerasTensor(shape, dtype=self.variable_dtype)

    def compute_output_shape(self, query_positions_shape, key_positions_shape):
        return (1, self.num_heads, query_positions_shape[0], key_positions_shape[0])

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_buckets": self.num_buckets,
            "max_distance": self.max_distance,
            "bidirectional": self.bidirectional,
            "embeddings_initializer": initializers.serialize(self.embeddings_initializer),
        }


class _Bias(Bias):
    """The layer's weights as a bias, with a gradient."""

    def __init__(self, layer):
        self._layer = layer
        self.parameters = (ops.convert_to_tensor(layer.embeddings),)

    def tile(self, rows, columns, *parameters):
        return self._layer.tile(rows, columns, *(parameters or self.parameters))
