"""Score functions: what number a query and a key give before the softmax."""

import math

from keras import ops

SCORES = ("scaled_dot", "dot", "cosine", "additive", "general")


def default_scale(score, size):
    """What the scores of heads of this size are multiplied with: 1 / sqrt(H) for "scaled_dot", else 1."""
    return 1 / math.sqrt(size) if score == "scaled_dot" else 1.0


def prepare(score, weights, query, key):
    """Turns a score function into a product of query and key, where it is one.

    Args:
        score: one of `SCORES`.
        weights: float [N, H, H_k] for "general", [N, H] for "additive", else None.
        query: float [B, T, N, H].
        key: float [B, S, K, H_k].

    Returns:
        (query, key, scale, additive): query and key of the same head size, the default scale, and for "additive" its
        vector, else None.

    Raises:
        ValueError: for an unknown name, and for weights that are missing, not wanted or of another shape.
    """
    if score not in SCORES:
        raise ValueError(f"`score` must be one of {', '.join(map(repr, SCORES))}. Received: score={score!r}")
    heads, size = query.shape[2], query.shape[3]
    wanted = {"general": (heads, size, key.shape[3]), "additive": (heads, size)}.get(score)
    received = None if weights is None else tuple(weights.shape)
    if received != wanted:
        raise ValueError(
            f"`score_weights` must be {'None' if wanted is None else f'of shape {wanted}'} for score={score!r}. "
            f"Received: {'None' if received is None else f'shape {received}'}"
        )
    if score == "cosine":
        query, key = _unit_length(query), _unit_length(key)
    elif score == "general":
        query = ops.einsum("btnh,nhg->btng", query, ops.cast(weights, query.dtype))
    return query, key, default_scale(score, size), weights if score == "additive" else None


def _unit_length(x):
    square = ops.sum(ops.square(ops.cast(x, _at_least_float32(x.dtype))), axis=-1, keepdims=True)
    # A vector of zeros has the similarity 0 with everything, and a finite gradient.
    return ops.cast(ops.cast(x, square.dtype) * ops.rsqrt(ops.maximum(square, 1e-12)), x.dtype)


def _at_least_float32(dtype):
    return "float64" if "float64" in str(dtype) else "float32"


def additive_scores(queries, keys, vector):
    """v . tanh(q + k) for every query and key.

    Args:
        queries: float [B, N, ..., t, H].
        keys: float [B, N, ..., H, s].
        vector: float [N, H].

    Returns:
        float [B, N, ..., t, s]. [B, N, ..., t, H, s] is held on the way.
    """
    between = ops.tanh(queries[..., :, :, None] + keys[..., None, :, :])
    ones = (1,) * (len(queries.shape) - 4)
    vector = ops.reshape(ops.cast(vector, between.dtype), (1, vector.shape[0], *ones, 1, vector.shape[1], 1))
    return ops.sum(between * vector, axis=-2)
