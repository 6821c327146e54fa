"""The largest attention weights of every query, without ever holding all of them."""

from typing import NamedTuple

from keras import ops

from keras_attention.ops.dense import attention_weights

# Queries whose weights are held at once.
_ROWS = 32


class TopScores(NamedTuple):
    """The keys that each query attends to most, largest first.

    Attributes:
        weights: float [B, N, T, k], the attention weights; 0 where fewer than k keys may be attended to.
        keys: int32 [B, N, T, k], the positions of the keys.

    Example:

    >>> import numpy as np
    >>> from keras_attention.ops import dot_product_attention
    >>> key = np.eye(4, dtype="float32").reshape(1, 4, 1, 4)  # four keys, each like one query only
    >>> _, top = dot_product_attention(5 * key[:, ::-1], key, key, top_scores=1)
    >>> top.keys.numpy()[0, 0, :, 0]
    array([3, 2, 1, 0], dtype=int32)
    """

    weights: object
    keys: object


def top_scores(arguments, k):
    """The `k` largest attention weights of every query.

    Args:
        arguments: `keras_attention.ops.arguments.Arguments`.
        k: int, positive, at most S.

    Returns:
        `TopScores`.

    Raises:
        ValueError: if `k` is not a positive integer or is known to be more than there are keys.
    """
    key_length = arguments.key.shape[1]
    if not isinstance(k, int) or isinstance(k, bool) or k < 1 or (key_length is not None and k > key_length):
        raise ValueError(
            f"`top_scores` must be a positive integer, at most the number of keys. Received: {k!r} with keys of shape "
            f"{tuple(arguments.key.shape)}"
        )
    a = arguments.with_repeated_heads()
    queries, keys = ops.transpose(a.query, (0, 2, 1, 3)), ops.transpose(a.key, (0, 2, 3, 1))
    length = ops.shape(queries)[2]
    columns = ops.arange(ops.shape(a.key)[1], dtype="int32")

    def tile(start):
        rows = ops.minimum(start + ops.arange(_ROWS, dtype="int32"), length - 1)
        weights = attention_weights(a, ops.take(queries, rows, axis=2), keys, rows, columns)
        largest, which = ops.top_k(weights, k)
        return largest, ops.cast(which, "int32")

    tiles = ops.map(tile, ops.arange(0, length, _ROWS, dtype="int32"))  # [tiles, B, N, rows, k]
    return TopScores(*(_join(pieces)[:, :, :length] for pieces in tiles))


def _join(pieces):
    pieces = ops.transpose(pieces, (1, 2, 0, 3, 4))
    shape = ops.shape(pieces)
    return ops.reshape(pieces, (shape[0], pieces.shape[1], shape[2] * _ROWS, pieces.shape[4]))
