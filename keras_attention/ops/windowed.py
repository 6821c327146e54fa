"""Attention within a window, block by block: time and memory linear in the length, on every backend."""

import keras
from keras import ops

from keras_attention.ops.dense import attention_weights

# Smaller blocks would be too little work for one matrix product.
_SMALLEST_BLOCK = 64


def windowed_attention(arguments):
    """Attention in which a query reaches few keys to each side, O(T (back + ahead)) scores.

    The queries are cut into blocks about as long as the window; a block attends to the keys that any of its queries may
    reach, and the mask says which of them each may (Beltagy et al. 2020, Longformer, section 3.2,
    https://arxiv.org/abs/2004.05150).

    Args:
        arguments: `keras_attention.ops.arguments.Arguments`, with a mask that has a `reach` to both sides.

    Returns:
        [B, T, N, H_v].

    Raises:
        ValueError: if nothing bounds how far a query reaches.
    """
    a = arguments.with_repeated_heads()
    back, ahead = (None, None) if a.mask is None else a.mask.reach()
    if back is None or ahead is None:
        raise ValueError(
            "`implementation='windowed'` needs a mask that bounds how far a query reaches to both sides, such as "
            f"`SlidingWindow(256)`. Received: mask={a.mask!r}"
        )
    block = max(back + ahead, _SMALLEST_BLOCK)
    length, key_length = ops.shape(a.query)[1], ops.shape(a.key)[1]
    starts = ops.arange(0, length, block, dtype="int32")[:, None]
    rows = ops.minimum(starts + ops.arange(block, dtype="int32"), length - 1)  # [g, t]
    reached = starts - back + ops.arange(back + block + ahead, dtype="int32")  # [g, s]
    columns = ops.clip(reached, 0, key_length - 1)
    exists = ops.logical_and(reached >= 0, reached < key_length)[:, None, :]

    queries = ops.transpose(ops.take(a.query, rows, axis=1), (0, 3, 1, 2, 4))  # [B, N, g, t, H]
    keys = ops.transpose(ops.take(a.key, columns, axis=1), (0, 3, 1, 4, 2))  # [B, N, g, H, s]
    within = a.replace(mask=_Within(a.mask, exists))
    weights = attention_weights(within, queries, keys, rows, columns)
    if a.dropout:
        weights = keras.random.dropout(weights, a.dropout, seed=a.seed)
    output = ops.einsum("bngts,bgsnh->bgtnh", weights, ops.take(a.value, columns, axis=1))
    # No -1: it could not be inferred for an empty batch.
    output = ops.reshape(output, (ops.shape(output)[0], ops.shape(starts)[0] * block, *a.value.shape[2:]))
    return output[:, :length]


class _Within:
    """The mask, where the key exists: at both ends blocks reach beyond the sequence."""

    def __init__(self, mask, exists):
        self._mask = mask
        self._exists = exists

    def tile(self, rows, columns):
        return ops.logical_and(self._mask.tile(rows, columns), self._exists)
