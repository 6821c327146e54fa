"""Attention as a function of tensors, with a choice of score functions and implementations."""

import keras
from keras import ops

from keras_attention import biases, masks
from keras_attention.ops.arguments import Arguments
from keras_attention.ops.dense import dense_attention
from keras_attention.ops.linear import linear_attention
from keras_attention.ops.scores import prepare
from keras_attention.ops.top_scores import top_scores as find_top_scores
from keras_attention.ops.windowed import windowed_attention

# From so many scores on, the whole [B, N, T, S] plane is not held: 2^25 in float32 are 128 MB, and training holds
# several of them.
_CHUNK_FROM = 2**25
_SHORT = 2**21
# Blocks pay where the window is a small part of the length.
_WINDOWS_FROM = 4
IMPLEMENTATIONS = ("auto", "dense", "chunked", "windowed", "linear")


def dot_product_attention(
    query,
    key,
    value,
    bias=None,
    mask=None,
    scale=None,
    is_causal=False,
    *,
    score="scaled_dot",
    score_weights=None,
    sinks=None,
    attn_logits_soft_cap=None,
    dropout=0.0,
    seed=None,
    return_attention_scores=False,
    top_scores=None,
    implementation="auto",
):
    """softmax(cap(scale * score(query, key)) + bias) value, over the keys that the mask allows.

    A query that may attend to nothing gives zeros, and a zero gradient. Scores are summed and normalised in float32
    when the inputs are of a smaller type.

    The score functions, for a query q and a key k of one head:

    | `score` | formula | default scale | source |
    |---|---|---|---|
    | "scaled_dot" | q . k | 1 / sqrt(H) | Vaswani et al. 2017, equation 1, https://arxiv.org/abs/1706.03762 |
    | "dot" | q . k | 1 | Luong et al. 2015, section 3.1, https://arxiv.org/abs/1508.04025 |
    | "general" | q . W k, W [H, H_k] a head | 1 | the same |
    | "additive" | v . tanh(q + k), v [H] a head | 1 | Bahdanau et al. 2015, A.1.2, https://arxiv.org/abs/1409.0473 |
    | "cosine" | q . k / (|q| |k|) | 1 | Graves et al. 2014, equation 6, https://arxiv.org/abs/1410.5401 |

    Additive attention's two matrices are the projections of query and key, which come before.

    Args:
        query: float [B, T, N, H].
        key: float [B, S, K, H]. With fewer heads than `query`, N / K neighbouring query heads share one (Ainslie et al.
            2023, GQA, https://arxiv.org/abs/2305.13245).
        value: float [B, S, K, H_v].
        bias: a `keras_attention.biases.Bias`, or float of shape [T, S], [B, T, S] or [B, N, T, S], added to the scaled
            scores. Finite: what must not be attended to is said by `mask`.
        mask: a `keras_attention.masks.Mask`, or bool or 0/1 numbers of shape [T, S], [B, T, S] or [B, N, T, S]. True
            where the query may attend to the key.
        scale: float. Defaults to that of the score function.
        is_causal: bool. Also forbid keys after the query, aligned top-left as in Keras.
        score: str, the score function.
        score_weights: float, W [N, H, H_k] for "general" and v [N, H] for "additive".
        sinks: float [N]. Each head attends to one more key with this score and the value zero, so that a query may
            attend to nothing much (OpenAI 2025, gpt-oss model card, section 2.2, https://arxiv.org/abs/2508.10925; Xiao
            et al. 2024, section 3.3, https://arxiv.org/abs/2309.17453).
        attn_logits_soft_cap: float c, positive: scaled scores become c tanh(score / c) (Gemma Team 2024, Gemma 2,
            section 2, https://arxiv.org/abs/2408.00118).
        dropout: float in [0, 1), the share of attention weights that are dropped; "chunked" takes the nearest 256th.
        seed: int or `keras.random.SeedGenerator`, for the dropout.
        return_attention_scores: bool. Also return the weights (before dropout); this takes the dense implementation.
        top_scores: int k. Also return the k largest weights of every query and their keys, which never takes the memory
            of all weights.
        implementation: how it is computed.

            - "dense" holds all scores at once.
            - "chunked", on TensorFlow, computes them tile by tile, and once more in the backward pass: exact, in memory
              linear in the length; what a mask such as `Causal` or `SlidingWindow` rules out is skipped, so that a
              window takes linear time too. It is not for XLA.
            - "windowed", on every backend, computes the blocks that a window reaches: exact, O(T w) time and memory for
              a mask that bounds how far a query reaches to both sides.
            - "linear" is another function: `keras_attention.ops.linear_attention` with its default feature map.
            - "auto" is exact. It takes "chunked" on TensorFlow where there are many scores; on JAX and PyTorch
              "windowed" where a window is much shorter than the sequence, and else the backend's fused attention where
              that computes the same (no bias, soft cap, sinks, dropout or additive score); "dense" for the rest.

    Returns:
        [B, T, N, H_v] in the type of `query`; with `return_attention_scores`, also the weights, [B, N, T, S]; with
        `top_scores`, also a `TopScores`.

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
    >>> output, top = dot_product_attention(x, x, x, top_scores=3)
    >>> top.weights.shape, top.keys.shape
    (TensorShape([2, 4, 5, 3]), TensorShape([2, 4, 5, 3]))

    Reference: Vaswani et al. 2017, Attention Is All You Need, equation 1 (page 4), https://arxiv.org/abs/1706.03762
    """
    _check_shapes(query, key, value, score)
    _check_options(attn_logits_soft_cap, sinks, query)
    if mask is not None and not isinstance(mask, masks.Mask):
        mask = masks.Explicit(mask)
    if is_causal:
        mask = masks.combine(mask, masks.Causal())
    if bias is not None and not isinstance(bias, biases.Bias):
        bias = biases.ExplicitBias(bias)
    for specification in (mask, bias):
        if specification is not None:
            specification.check(query.shape[1], key.shape[1])
    query, key, own_scale, additive = prepare(score, score_weights, query, key)
    arguments = Arguments(
        query,
        key,
        value,
        bias,
        mask,
        own_scale if scale is None else scale,
        attn_logits_soft_cap,
        additive,
        sinks,
        dropout,
        seed,
    )
    _check_implementation(implementation, arguments, score, return_attention_scores or top_scores)
    results = dense_attention(arguments) if return_attention_scores else (_attend(arguments, implementation),)
    if top_scores is not None:
        results += (find_top_scores(arguments, top_scores),)
    return results if len(results) > 1 else results[0]


def _attend(a, implementation):
    if implementation == "auto":
        return _attend_automatically(a)
    if implementation == "chunked":
        from keras_attention.ops.chunked import chunked_attention

        return chunked_attention(a)
    if implementation == "windowed":
        return windowed_attention(a)
    if implementation == "linear":
        return linear_attention(a.query, a.key, a.value, a.mask)
    return dense_attention(a)[0]


def _attend_automatically(a):
    if keras.backend.backend() == "tensorflow":
        from keras_attention.ops import chunked

        if _is_short(a):
            return dense_attention(a)[0]
        return chunked.if_many_scores(
            a, _CHUNK_FROM, lambda: chunked.chunked_attention(a), lambda: dense_attention(a)[0]
        )
    reach = (None, None) if a.mask is None else a.mask.reach()
    if None not in reach and a.key.shape[1] > _WINDOWS_FROM * (sum(reach) + 1):
        return windowed_attention(a)
    return _fused_attention(a) if _can_fuse(a) else dense_attention(a)[0]


def _is_short(a):
    """Whether the lengths are known to be so small that no batch needs tiles."""
    sizes = (a.query.shape[1], a.key.shape[1], a.query.shape[2])
    return None not in sizes and elements_of(a, 1) <= _SHORT


def elements_of(a, batch):
    """How many numbers the scores of a call with static lengths take, for so large a batch."""
    between = a.query.shape[3] if a.additive is not None else 1
    return batch * a.query.shape[1] * a.key.shape[1] * a.query.shape[2] * between


def _can_fuse(a):
    """Whether the backend's own attention computes the same."""
    plain = a.bias is None and a.soft_cap is None and a.additive is None and a.sinks is None and not a.dropout
    # Keras's operation computes float64 in float32.
    exact = keras.backend.standardize_dtype(a.query.dtype) != "float64"
    return plain and exact and a.query.shape[-1] == a.value.shape[-1]


def _fused_attention(a):
    a = a.with_repeated_heads()
    if isinstance(a.mask, masks.Causal):
        return ops.dot_product_attention(a.query, a.key, a.value, scale=a.scale, is_causal=True)
    if a.mask is None:
        return ops.dot_product_attention(a.query, a.key, a.value, scale=a.scale)
    rows, columns = (ops.arange(x.shape[1], dtype="int32") for x in (a.query, a.key))
    allowed = a.mask.tile(rows, columns)
    allowed = ops.reshape(allowed, (*[1] * (4 - len(allowed.shape)), *allowed.shape))
    attending = ops.any(allowed, axis=-1, keepdims=True)  # [B or 1, N or 1, T or 1, 1]
    output = ops.dot_product_attention(a.query, a.key, a.value, mask=allowed, scale=a.scale)
    return ops.where(ops.transpose(attending, (0, 2, 1, 3)), output, ops.zeros((), output.dtype))


def _check_shapes(query, key, value, score):
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
        elif differ(qh, kh) and score != "general":
            problem = "`query` and `key` must have the same head size"
        elif differ(ks, vs):
            problem = "`key` and `value` must have the same length"
    if problem:
        received = ", ".join(f"{name} of shape {shape}" for name, shape in shapes.items())
        raise ValueError(f"{problem}. Received: {received}")


def _check_options(soft_cap, sinks, query):
    if soft_cap is not None and not soft_cap > 0:
        raise ValueError(f"`attn_logits_soft_cap` must be positive. Received: attn_logits_soft_cap={soft_cap!r}")
    if sinks is not None and tuple(sinks.shape) != (query.shape[2],):
        raise ValueError(
            f"`sinks` must have one score for each of the {query.shape[2]} query heads. "
            f"Received: shape {tuple(sinks.shape)}"
        )


def _check_implementation(implementation, a, score, scores_wanted):
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"`implementation` must be one of {', '.join(map(repr, IMPLEMENTATIONS))}. "
            f"Received: implementation={implementation!r}"
        )
    if implementation == "chunked" and (scores_wanted or keras.backend.backend() != "tensorflow"):
        raise ValueError(
            "`implementation='chunked'` runs on the TensorFlow backend and never holds the scores. Received: "
            f"scores asked for: {bool(scores_wanted)}, on the {keras.backend.backend()} backend"
        )
    if implementation == "linear":
        unused = {
            "score": score if score != "scaled_dot" else None,
            "bias": a.bias,
            "sinks": a.sinks,
            "attn_logits_soft_cap": a.soft_cap,
            "dropout": a.dropout or None,
            "attention scores": scores_wanted or None,
        }
        refused = {name: value for name, value in unused.items() if value is not None}
        if refused:
            raise ValueError(
                "`implementation='linear'` has no scores, so it takes no bias, soft cap, sinks or dropout of them and "
                f"returns none. Received: {', '.join(refused)}"
            )
