"""Attention that holds the scores of all the queries and keys that it is given."""

import keras
from keras import ops

from keras_attention.ops.scores import additive_scores

# Far below any score and still finite, so that a row in which everything is masked gives numbers, never NaN, in the
# forward and in the backward pass.
MASKED_SCORE = -1e30


def dense_attention(arguments):
    """Attention with the whole [T, S] plane in memory, on every backend.

    Args:
        arguments: `keras_attention.ops.arguments.Arguments`.

    Returns:
        ([B, T, N, H_v], [B, N, T, S]): the output and the weights before dropout.
    """
    a = arguments.with_repeated_heads()
    queries, keys = ops.transpose(a.query, (0, 2, 1, 3)), ops.transpose(a.key, (0, 2, 3, 1))
    rows, columns = (ops.arange(ops.shape(x)[1], dtype="int32") for x in (a.query, a.key))
    weights = attention_weights(a, queries, keys, rows, columns)
    kept = keras.random.dropout(weights, a.dropout, seed=a.seed) if a.dropout else weights
    return ops.einsum("bnts,bsnh->btnh", kept, a.value), weights


def attention_weights(arguments, queries, keys, rows, columns):
    """The softmax of the scores of some queries and keys, which sums to one but for masked rows and sinks.

    Args:
        arguments: `keras_attention.ops.arguments.Arguments`; its query, key and value are not looked at.
        queries: [B, N, t, H] or, in blocks, [B, N, g, t, H].
        keys: [B, N, H, s] or [B, N, g, H, s].
        rows: int32 [t] or [g, t], the queries' positions.
        columns: int32 [s] or [g, s], the keys'.

    Returns:
        [B, N, t, s] or [B, N, g, t, s] in the type of the queries; computed in float32 at least.
    """
    a = arguments
    dtype = keras.backend.standardize_dtype(queries.dtype)
    exact = "float64" if dtype == "float64" else "float32"
    queries, keys = ops.cast(queries, exact), ops.cast(keys, exact)
    if a.additive is None:
        tiles = "g" * (len(queries.shape) - 4)
        # Not `matmul`, which Keras computes in float32 on PyTorch.
        scores = ops.einsum(f"bn{tiles}th,bn{tiles}hs->bn{tiles}ts", queries * a.scale, keys)
    else:
        scores = additive_scores(queries, keys, a.additive) * a.scale
    if a.soft_cap is not None:
        scores = a.soft_cap * ops.tanh(scores / a.soft_cap)
    if a.bias is not None:
        scores = scores + ops.cast(a.bias.tile(rows, columns), exact)
    allowed = None if a.mask is None else a.mask.tile(rows, columns)
    if allowed is not None:
        scores = ops.where(allowed, scores, MASKED_SCORE)
    weights = _softmax(scores)
    if a.sinks is not None:
        sinks = ops.reshape(ops.cast(a.sinks, exact), (1, -1, *[1] * (len(scores.shape) - 2)))
        # A further key with this score and the value zero: softmax over one more, and then without it.
        weights = weights * ops.sigmoid(ops.logsumexp(scores, axis=-1, keepdims=True) - sinks)
    if allowed is not None:
        weights = ops.where(allowed, weights, ops.zeros((), exact))
    return ops.cast(weights, dtype)


def _softmax(scores):
    # Over a single key Keras would warn that a softmax is pointless; here it is a sequence of length one. The ones are
    # computed from the scores, so that these have a gradient: zero.
    return scores - scores + 1 if scores.shape[-1] == 1 else ops.softmax(scores)
