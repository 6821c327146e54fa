"""Bias specifications: what is added to the scores of queries and keys, composed with `+`, evaluated tile by tile.

As with masks, a specification is not a tensor: `ALiBi(8)` is static, and an implementation of attention that never
holds the [T, S] plane asks it for one tile after the other.
"""

import math

import keras
from keras import ops

from keras_attention.masks import check_plane, take_tile
from keras_attention.specification import Specification

_PACKAGE = "keras_attention"


class Bias:
    """The base of all bias specifications: what is added to the scaled scores.

    Attributes:
        parameters: tuple of tensors that the bias is computed from and that have a gradient.
    """

    parameters = ()

    def tile(self, rows, columns, *parameters):
        """The bias for one tile of the [T, S] plane.

        Args:
            rows: int32 [t], the positions of the tile's queries; or [g, t], of several tiles at once.
            columns: int32 [s] or [g, s], the positions of the tile's keys.
            *parameters: stand-ins for `self.parameters`, of the same shapes, when a gradient is taken.

        Returns:
            float, broadcastable to [B, N, t, s] or [B, N, g, t, s].
        """
        raise NotImplementedError(f"{type(self).__name__} must define `tile(rows, columns, *parameters)`.")

    def check(self, length, key_length):
        """Raises ValueError if the bias holds a tensor that is known not to fit T queries and S keys."""

    def terms(self):
        """The biases that this one is the sum of, list of `Bias`."""
        return [self]

    def __add__(self, other):
        if not isinstance(other, Bias):
            return NotImplemented
        return Sum(self, other)


class Sum(Bias):
    """Two biases, added; written `first + second`."""

    def __init__(self, first, second):
        self.first = first
        self.second = second

    def check(self, length, key_length):
        for term in self.terms():
            term.check(length, key_length)

    def terms(self):
        return [*self.first.terms(), *self.second.terms()]

    @property
    def parameters(self):
        return (*self.first.parameters, *self.second.parameters)

    def tile(self, rows, columns, *parameters):
        split = len(self.first.parameters)
        return ops.add(
            self.first.tile(rows, columns, *parameters[:split]), self.second.tile(rows, columns, *parameters[split:])
        )


@keras.saving.register_keras_serializable(_PACKAGE)
class ALiBi(Specification, Bias):
    """Attention with linear biases: -slope_n |t - s|, a slope a head, instead of positions in the embeddings.

    Slopes are 2^(-8 i / N) for the heads i = 1..N; for N that is no power of two, those of the next lower one and then
    every second one of twice as many heads, as published.

    Args:
        num_heads: int, N.

    Raises:
        ValueError: if `num_heads` is not a positive integer.

    Reference: Press et al. 2022, Train Short, Test Long, section 3, https://arxiv.org/abs/2108.12409
    """

    def __init__(self, num_heads):
        if not isinstance(num_heads, int) or num_heads <= 0:
            raise ValueError(f"`num_heads` must be a positive integer. Received: num_heads={num_heads!r}")
        self.num_heads = num_heads

    def slopes(self):
        """The slope of each head, list of float."""
        power = 2 ** math.floor(math.log2(self.num_heads))

        def geometric(count):
            return [2 ** (-8 * (i + 1) / count) for i in range(count)]

        return geometric(power) + geometric(2 * power)[::2][: self.num_heads - power]

    def tile(self, rows, columns):
        rows, columns = ops.cast(rows, "float32"), ops.cast(columns, "float32")
        distance = ops.abs(rows[..., :, None] - columns[..., None, :])
        slopes = -ops.convert_to_tensor(self.slopes(), "float32")
        # As a product of matrices, [N, 1] and [1, t s]: on a CPU a third of the time of broadcasting.
        biases = ops.matmul(slopes[:, None], ops.reshape(distance, (1, -1)))
        return ops.reshape(biases, (1, self.num_heads, *ops.shape(distance)))

    def get_config(self):
        return {"num_heads": self.num_heads}


class Shifted(Bias):
    """A bias of positions, for queries and keys that do not begin at position 0: those of a step with a cache.

    It belongs to one call of one layer.

    Args:
        bias: a `Bias` that is no `ExplicitBias`.
        offset: int or int32 scalar, the position of the first query.
        key_positions: int32 [S], the position of each key. Defaults to 0, 1, ..., S - 1.
    """

    def __init__(self, bias, offset, key_positions=None):
        self.bias = bias
        self.offset = offset
        self.key_positions = key_positions

    @property
    def parameters(self):
        return self.bias.parameters

    def tile(self, rows, columns, *parameters):
        if self.key_positions is not None:
            columns = ops.take(self.key_positions, columns, axis=0)
        return self.bias.tile(rows + self.offset, columns, *parameters)


class ExplicitBias(Bias):
    """A bias written out as a tensor.

    Args:
        bias: float, broadcastable to [B, N, T, S]; of rank 2 ([T, S]), 3 ([B, T, S]) or 4.
    """

    def __init__(self, bias):
        self.tensor = ops.convert_to_tensor(bias)
        rank = len(self.tensor.shape)
        if not 2 <= rank <= 4:
            raise ValueError(
                "a bias tensor must have shape [T, S], [B, T, S] or [B, N, T, S]. "
                f"Received: shape {tuple(self.tensor.shape)}"
            )
        if rank < 4:
            self.tensor = self.tensor[:, None] if rank == 3 else self.tensor[None, None]

    def check(self, length, key_length):
        check_plane("the bias", self.tensor, length, key_length)

    @property
    def parameters(self):
        return (self.tensor,)

    def tile(self, rows, columns, *parameters):
        (tensor,) = parameters or (self.tensor,)
        return take_tile(tensor, rows, columns)
