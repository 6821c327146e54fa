"""The kinds of `position` that `MultiHeadAttention` takes, and where each of them enters."""

import keras
from keras import ops

from keras_attention import biases
from keras_attention.layers.relative_position_bias import RelativePositionBias
from keras_attention.layers.rotary_position import RotaryPosition
from keras_attention.layers.transformer_xl_position import TransformerXLPosition

_KINDS = (RotaryPosition, RelativePositionBias, TransformerXLPosition, biases.Bias)


def check_position(position, num_heads):
    """The position, from its config if it is one; ValueError if it is of no known kind or for other heads."""
    if isinstance(position, dict):
        position = keras.saving.deserialize_keras_object(position)
    if position is not None and not isinstance(position, _KINDS):
        raise ValueError(
            "`position` must be a RotaryPosition, a RelativePositionBias, a TransformerXLPosition or a "
            f"keras_attention.biases.Bias. Received: position={position!r}"
        )
    heads = getattr(position, "num_heads", num_heads)
    if heads != num_heads:
        raise ValueError(
            f"`position` must be for as many heads as the layer has. Received: position.num_heads={heads} with "
            f"num_heads={num_heads}"
        )
    return position


def rotate(position, heads, offset):
    """Queries or keys [B, T, N, H], of which the first is at `offset`, turned if the position is rotary."""
    if not isinstance(position, RotaryPosition):
        return heads
    return position.rotate(heads, offset + ops.arange(ops.shape(heads)[1], dtype="int32"))


def with_position(position, queries, bias, scale, offset, key_positions):
    """(queries, bias, scale) of one call with what the position adds to them.

    Args:
        position: one of the kinds, or None.
        queries: float [B, T, N, H].
        bias: a tensor or a `keras_attention.biases.Bias` of this call, or None.
        scale: float, what the scores are multiplied with.
        offset: int or int32 scalar, the position of the first query.
        key_positions: int32 [S], or None for 0, 1, ..., S - 1.
    """
    if bias is not None and not isinstance(bias, biases.Bias):
        bias = biases.ExplicitBias(bias)
    elif bias is not None and not isinstance(bias, biases.ExplicitBias):
        bias = biases.Shifted(bias, offset, key_positions)
    if position is None:
        return queries, bias, scale
    if isinstance(position, RotaryPosition):
        return queries, bias, scale * position.attention_scale
    if isinstance(position, TransformerXLPosition):
        queries, own = position.query_and_bias(queries, scale, offset, key_positions)
    else:
        own = position.as_bias() if isinstance(position, RelativePositionBias) else position
        own = biases.Shifted(own, offset, key_positions)
    return queries, own if bias is None else own + bias, scale
