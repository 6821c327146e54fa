"""Scaled dot-product attention as a function of tensors, with a choice of implementations."""

import math

import keras
from keras import ops

from keras_attention import biases, masks

# Far below any score and still finite, so that a row in which everything is masked gives numbers, never NaN, in the
# forward and in the backward pass.
_MASKED_SCORE = -1e30

# From so many scores on, the whole [B, N, T, S] plane is not held: 2^25 in float32 are 128 MB, and training holds
# several of them.
_CHUNK_FROM = 2**25
_SHORT = 2**21
_IMPLEMENTATIONS = ("auto", "dense", "chunked")


def dot_product_attention(
    query,
    key,
    value,
    bias=None,
    mask=None,
    scale=None,
    is_causal=False,
    *,
    attn_logits_soft_cap=None,
    dropout=0.0,
    seed=None,
    return_attention_scores=False,
    implementation="auto",
):
    """softmax(cap(scale * query key^T) + bias) value, over the keys that the mask allows.

    A query that may attend to nothing gives zeros, and a zero gradient. Scores are summed and normalised in float32
    when the inputs are of a smaller type.

    Args:
        query: float [B, T, N, H].
        key: float [B, S, K, H]. With fewer heads than `query`, N / K neighbouring query heads share one (Ainslie et al.
            2023, GQA, https://arxiv.org/abs/2305.13245).
        value: float [B, S, K, H_v].
        bias: a `keras_attention.biases.Bias`, or float of shape [T, S], [B, T, S] or [B, N, T, S], added to the scaled
            scores. Finite: what must not be attended to is said by `mask`.
        mask: a `keras_attention.masks.Mask`, or bool or 0/1 numbers of shape [T, S], [B, T, S] or [B, N, T, S]. True
            where the query may attend to the key.
        scale: float. Defaults to 1 / sqrt(H).
        is_causal: bool. Also forbid keys after the query, aligned top-left as in Keras.
        attn_logits_soft_cap: float c, positive: scaled scores become c tanh(score / c) (Gemma Team 2024, Gemma 2,
            section 2, https://arxiv.org/abs/2408.00118).
        dropout: float in [0, 1), the share of attention weights that are dropped; "chunked" takes the nearest 256th.
        seed: int or `keras.random.SeedGenerator`, for the dropout.
        return_attention_scores: bool. Also return the weights (before dropout); this takes the dense implementation.
        implementation: "dense" holds all scores at once. "chunked", on TensorFlow, computes them tile by tile, and once
            more in the backward pass: exact, in memory linear in the length; what a mask such as `Causal` or
            `SlidingWindow` rules out is skipped, so that a window takes linear time too. It is not for XLA. "auto"
            takes "chunked" where there are many scores.

    Returns:
        [B, T, N, H_v] in the type of `query`; with `return_attention_scores`, also the weights, [B, N, T, S].

    Raises:
        ValueError: if ranks, batch, heads, head sizes or lengths do not fit together, or if the implementation cannot
            do what is asked.

    Example:

    >>> import numpy as np
    >>> from keras_attention.masks import Causal
    >>> from keras_attention.ops import dot_product_attention
    >>> x = np.random.default_rng(0).normal(size=(2, 5, 4, 8)).astype("float32")
    >>> dot_product_attention(x, x, x, mask=Causal()).shape
    TensorShape([2, 5, 4, 8])

    Reference: Vaswani et al. 2017, Attention Is All You Need, equation 1 (page 4), https://arxiv.org/abs/1706.03762
    """
    _check(query, key, value, attn_logits_soft_cap, implementation, return_attention_scores)
    if mask is not None and not isinstance(mask, masks.Mask):
        mask = masks.Explicit(mask)
    if is_causal:
        mask = masks.combine(mask, masks.Causal())
    if bias is not None and not isinstance(bias, biases.Bias):
        bias = biases.ExplicitBias(bias)
    for specification in (mask, bias):
        if specification is not None:
            specification.check(query.shape[1], key.shape[1])
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1])

    arguments = (query, key, value, bias, mask, scale, attn_logits_soft_cap, dropout, seed)
    if return_attention_scores:
        return _dense(*arguments)
    if implementation == "auto" and (keras.backend.backend() != "tensorflow" or _is_short(query, key)):
        implementation = "dense"
    if implementation == "dense":
        return _dense(*arguments)[0]

    from keras_attention.ops import chunked

    if implementation == "chunked":
        return chunked.chunked_attention(*arguments)
    return chunked.if_many_scores(
        query, key, _CHUNK_FROM, lambda: chunked.chunked_attention(*arguments), lambda: _dense(*arguments)[0]
    )


def _is_short(query, key):
    """Whether the lengths are known to be so small that no batch needs tiles."""
    sizes = (query.shape[1], key.shape[1], query.shape[2])
    return None not in sizes and math.prod(sizes) <= _SHORT


def _dense(query, key, value, bias, mask, scale, soft_cap, dropout, seed):
    """Attention with the whole [T, S] plane in memory."""
    dtype = keras.backend.standardize_dtype(query.dtype)
    softmax_dtype = "float64" if dtype == "float64" else "float32"
    groups = query.shape[2] // key.shape[2]
    if groups > 1:
        key, value = ops.repeat(key, groups, axis=2), ops.repeat(value, groups, axis=2)
    query, key = ops.cast(query, softmax_dtype), ops.cast(key, softmax_dtype)
    scores = ops.einsum("btnh,bsnh->bnts", query * scale, key)
    if soft_cap is not None:
        scores = soft_cap * ops.tanh(scores / soft_cap)
    rows, columns = (ops.arange(ops.shape(x)[1], dtype="int32") for x in (query, key))
    if bias is not None:
        scores = scores + ops.cast(bias.tile(rows, columns), softmax_dtype)
    if mask is None:
        weights = _softmax(scores)
    else:
        allowed = mask.tile(rows, columns)
        weights = _softmax(ops.where(allowed, scores, _MASKED_SCORE))
        weights = ops.where(allowed, weights, ops.zeros((), softmax_dtype))
    weights = ops.cast(weights, dtype)
    kept = keras.random.dropout(weights, dropout, seed=seed) if dropout else weights
    return ops.einsum("bnts,bsnh->btnh", kept, value), weights


def _softmax(scores):
    # Over a single key Keras would warn that a softmax is pointless; here it is a sequence of length one. The ones are
    # computed from the scores, so that these have a gradient: zero.
    return scores - scores + 1 if scores.shape[-1] == 1 else ops.softmax(scores)


def _check(query, key, value, soft_cap, implementation, return_attention_scores):
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
        elif kn != vn or qn % kn:
            problem = "`key` and `value` must have the same number of heads, which divides that of `query`"
        elif differ(qh, kh):
            problem = "`query` and `key` must have the same head size"
        elif differ(ks, vs):
            problem = "`key` and `value` must have the same length"
    if problem:
        received = ", ".join(f"{name} of shape {shape}" for name, shape in shapes.items())
        raise ValueError(f"{problem}. Received: {received}")
    if soft_cap is not None and not soft_cap > 0:
        raise ValueError(f"`attn_logits_soft_cap` must be positive. Received: attn_logits_soft_cap={soft_cap!r}")
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"`implementation` must be one of {', '.join(map(repr, _IMPLEMENTATIONS))}. "
            f"Received: implementation={implementation!r}"
        )
    if implementation == "chunked" and (return_attention_scores or keras.backend.backend() != "tensorflow"):
        raise ValueError(
            "`implementation='chunked'` runs on the TensorFlow backend and never holds the scores. Received: "
            f"return_attention_scores={return_attention_scores} on the {keras.backend.backend()} backend"
        )
