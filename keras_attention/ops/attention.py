"""Scaled dot-product attention as a function of tensors."""

import math

import keras
from keras import ops

from keras_attention import masks

# Far below any score and still finite, so that a row in which everything is masked gives numbers, never NaN, in the
# forward and in the backward pass.
_MASKED_SCORE = -1e30


def dot_product_attention(
    query,
    key,
    value,
    bias=None,
    mask=None,
    scale=None,
    is_causal=False,
    *,
    dropout=0.0,
    seed=None,
    return_attention_scores=False,
):
    """softmax(scale * query key^T + bias) value, over the keys that the mask allows.

    A query that may attend to nothing gives zeros, and a zero gradient. Scores are summed and normalised in float32
    when the inputs are of a smaller type.

    Args:
        query: float [B, T, N, H].
        key: float [B, S, N, H].
        value: float [B, S, N, H_v].
        bias: float, broadcastable to [B, N, T, S], added to the scaled scores. Finite: what must not be attended to is
            said by `mask`.
        mask: a `keras_attention.masks.Mask`, or bool or 0/1 numbers of shape [T, S], [B, T, S] or [B, N, T, S]. True
            where the query may attend to the key.
        scale: float. Defaults to 1 / sqrt(H).
        is_causal: bool. Also forbid keys after the query, aligned top-left as in Keras.
        dropout: float in [0, 1), the share of attention weights that are dropped.
        seed: int or `keras.random.SeedGenerator`, for the dropout.
        return_attention_scores: bool. Also return the weights (before dropout).

    Returns:
        [B, T, N, H_v] in the type of `query`; with `return_attention_scores`, also the weights, [B, N, T, S].

    Raises:
        ValueError: if ranks, batch, heads, head sizes or lengths do not fit together.

    Example:

    >>> import numpy as np
    >>> from keras_attention.masks import Causal
    >>> from keras_attention.ops import dot_product_attention
    >>> x = np.random.default_rng(0).normal(size=(2, 5, 4, 8)).astype("float32")
    >>> dot_product_attention(x, x, x, mask=Causal()).shape
    TensorShape([2, 5, 4, 8])

    Reference: Vaswani et al. 2017, Attention Is All You Need, equation 1 (page 4), https://arxiv.org/abs/1706.03762
    """
    _check_shapes(query, key, value)
    if mask is not None and not isinstance(mask, masks.Mask):
        mask = masks.Explicit(mask)
    if is_causal:
        mask = masks.combine(mask, masks.Causal())
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1])
    output, weights = _dense(query, key, value, bias, mask, scale, dropout, seed)
    return (output, weights) if return_attention_scores else output


def _dense(query, key, value, bias, mask, scale, dropout, seed):
    """Attention with the whole [T, S] plane in memory."""
    dtype = keras.backend.standardize_dtype(query.dtype)
    softmax_dtype = "float64" if dtype == "float64" else "float32"
    scores = ops.einsum("btnh,bsnh->bnts", query * ops.cast(scale, dtype), key)
    scores = ops.cast(scores, softmax_dtype)
    if bias is not None:
        scores = scores + ops.cast(bias, softmax_dtype)
    if mask is None:
        weights = _softmax(scores)
    else:
        rows = ops.arange(ops.shape(query)[1], dtype="int32")
        columns = ops.arange(ops.shape(key)[1], dtype="int32")
        allowed = mask.tile(rows, columns)
        weights = _softmax(ops.where(allowed, scores, _MASKED_SCORE))
        weights = ops.where(allowed, weights, ops.zeros((), softmax_dtype))
    weights = ops.cast(weights, dtype)
    kept = keras.random.dropout(weights, dropout, seed=seed) if dropout else weights
    return ops.einsum("bnts,bsnh->btnh", kept, value), weights


def _softmax(scores):
    # Over a single key Keras would warn that a softmax is pointless; here it is a sequence of length one.
    return ops.ones_like(scores) if scores.shape[-1] == 1 else ops.softmax(scores)


def _check_shapes(query, key, value):
    shapes = {"query": tuple(query.shape), "key": tuple(key.shape), "value": tuple(value.shape)}

    def differ(a, b):
        return a is not None and b is not None and a != b

    problem = None
    if any(len(shape) != 4 for shape in shapes.values()):
        problem = "`query`, `key` and `value` must have rank 4 ([B, T, N, H])"
    else:
        (qb, _, qn, qh), (kb, ks, kn, kh), (vb, vs, vn, _) = shapes.values()
        if differ(qb, kb) or differ(qb, vb) or differ(kb, vb):
            problem = "`query`, `key` and `value` must have the same batch size"
        elif differ(qn, kn) or differ(qn, vn):
            problem = "`query`, `key` and `value` must have the same number of heads"
        elif differ(qh, kh):
            problem = "`query` and `key` must have the same head size"
        elif differ(ks, vs):
            problem = "`key` and `value` must have the same length"
    if problem:
        received = ", ".join(f"{name} of shape {shape}" for name, shape in shapes.items())
        raise ValueError(f"{problem}. Received: {received}")
