"""Linear attention: a kernel instead of the softmax, in time and memory linear in the length, on every backend."""

import keras
from keras import ops

from keras_attention import masks

# Causal: within a block all pairs, between blocks a running sum.
_BLOCK = 128

_FEATURE_MAPS = {
    "elu": lambda x: ops.elu(x) + 1,
    "relu": ops.relu,
}


def linear_attention(query, key, value, mask=None, is_causal=False, feature_map="elu"):
    """f(q) (sum of f(k) v^T) / f(q) (sum of f(k)): attention whose weights are f(q) . f(k), normalised.

    It is another function than softmax attention, not an approximation of it: a model is trained with the one or the
    other. A query without any key, or with weights that sum to zero, gives zeros.

    Args:
        query: float [B, T, N, H].
        key: float [B, S, K, H], with K a divisor of N.
        value: float [B, S, K, H_v].
        mask: a `keras_attention.masks.Mask` that is composed of `Causal` and `Padding`, or None.
        is_causal: bool. Forbid keys after the query.
        feature_map: "elu", elu(x) + 1; "relu"; or a function of tensors [..., H] that gives [..., F], not negative.

    Returns:
        [B, T, N, H_v] in the type of `query`; sums are in float32 at least.

    Raises:
        ValueError: for another mask or an unknown feature map.

    Example:

    >>> import numpy as np
    >>> from keras_attention.ops import linear_attention
    >>> x = np.random.default_rng(0).normal(size=(2, 1000, 4, 8)).astype("float32")
    >>> linear_attention(x, x, x, is_causal=True).shape
    TensorShape([2, 1000, 4, 8])

    Reference: Katharopoulos et al. 2020, Transformers are RNNs, equations 5 to 12 (pages 3 and 4),
    https://arxiv.org/abs/2006.16236
    """
    if not callable(feature_map) and feature_map not in _FEATURE_MAPS:
        raise ValueError(
            f"`feature_map` must be one of {', '.join(map(repr, _FEATURE_MAPS))} or a function. "
            f"Received: feature_map={feature_map!r}"
        )
    feature_map = _FEATURE_MAPS.get(feature_map, feature_map) if isinstance(feature_map, str) else feature_map
    for term in [] if mask is None else mask.terms():
        if not isinstance(term, masks.Causal | masks.Padding):
            raise ValueError(f"linear attention takes masks of Causal and Padding only. Received: mask={mask!r}")
        is_causal = is_causal or isinstance(term, masks.Causal)
    dtype = keras.backend.standardize_dtype(query.dtype)
    exact = "float64" if dtype == "float64" else "float32"
    length, groups = ops.shape(query)[1], query.shape[2] // key.shape[2]

    queries, keys = (feature_map(ops.cast(x, exact)) for x in (query, key))
    values = ops.cast(value, exact)
    values = ops.concatenate([values, ops.ones_like(values[..., :1])], axis=-1)  # the last feature sums the weights
    for term in [] if mask is None else mask.terms():
        if isinstance(term, masks.Padding):
            valid = ops.cast(term.tensor, exact)[:, :, None, None]
            queries, keys = (queries * valid, keys) if term.axis == "query" else (queries, keys * valid)
    if groups > 1:
        keys, values = ops.repeat(keys, groups, axis=2), ops.repeat(values, groups, axis=2)

    sums = _causal(queries, keys, values) if is_causal else _both_ways(queries, keys, values)
    output, total = sums[:, :length, :, :-1], sums[:, :length, :, -1:]
    attending = total > 0
    output = ops.where(attending, output, ops.zeros((), exact)) / ops.where(attending, total, ops.ones((), exact))
    return ops.cast(output, dtype)


def _both_ways(queries, keys, values):
    return ops.einsum("btnf,bnfh->btnh", queries, ops.einsum("bsnf,bsnh->bnfh", keys, values))


def _causal(queries, keys, values):
    length = ops.shape(queries)[1]
    queries, keys, values = (_in_blocks(x, length) for x in (queries, keys, values))  # [B, g, t, N, ...]
    sums = ops.einsum("bgsnf,bgsnh->bgnfh", keys, values)
    before = ops.cumsum(sums, axis=1) - sums
    weights = ops.einsum("bgtnf,bgsnf->bgnts", queries, keys)
    positions = ops.arange(_BLOCK)
    weights = ops.where(positions[:, None] >= positions, weights, ops.zeros((), weights.dtype))
    result = ops.einsum("bgnts,bgsnh->bgtnh", weights, values) + ops.einsum("bgtnf,bgnfh->bgtnh", queries, before)
    shape = ops.shape(result)
    return ops.reshape(result, (shape[0], shape[1] * _BLOCK, *result.shape[3:]))


def _in_blocks(x, length):
    """[B, S, N, F] -> [B, g, t, N, F], cut or filled with zeros up to whole blocks over `length`."""
    starts = ops.arange(0, length, _BLOCK, dtype="int32")[:, None]
    positions = starts + ops.arange(_BLOCK, dtype="int32")
    last = ops.shape(x)[1] - 1
    blocks = ops.take(x, ops.minimum(positions, last), axis=1)
    return blocks * ops.cast(positions <= last, x.dtype)[:, :, None, None]
