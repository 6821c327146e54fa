"""Score functions and sinks: their formulas in numpy, and the same in tiles with the gradients of the dense one."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_attention.masks import Causal, Padding
from keras_attention.ops import dot_product_attention
from keras_attention.ops.scores import SCORES
from tests.backend import assert_close, tensorflow_only, to_numpy, value_and_gradients

B, T, S, N, K, H, V = 2, 5, 7, 4, 2, 6, 3
RNG = np.random.default_rng(0)
QUERY, KEY, VALUE = (RNG.normal(size=shape) for shape in ((B, T, N, H), (B, S, K, H), (B, S, K, V)))
WEIGHTS = {"general": RNG.normal(size=(N, H, H)), "additive": RNG.normal(size=(N, H))}
SINKS = RNG.normal(size=N)


def formula(score, query, key, weights):
    """The score of one query and one key of one head, in float64."""
    if score == "scaled_dot":
        return query @ key / np.sqrt(H)
    if score == "dot":
        return query @ key
    if score == "cosine":
        return query @ key / np.linalg.norm(query) / np.linalg.norm(key)
    return query @ weights @ key if score == "general" else weights @ np.tanh(query + key)


def expected_weights(score, sinks=None):
    scores = np.zeros((B, N, T, S))
    for b, n, t, s in np.ndindex(B, N, T, S):
        weights = WEIGHTS[score][n] if score in WEIGHTS else None
        scores[b, n, t, s] = formula(score, QUERY[b, t, n], KEY[b, s, n // (N // K)], weights)
    exponentials = np.exp(scores)
    total = exponentials.sum(-1, keepdims=True)
    return exponentials / (total if sinks is None else total + np.exp(sinks)[:, None, None])


def attend(score, *tensors, weights=None, **arguments):
    return dot_product_attention(*tensors, score=score, score_weights=weights, **arguments)


def float32(*arrays):
    return [None if x is None else ops.convert_to_tensor(x, "float32") for x in arrays]


@pytest.mark.parametrize("sinks", [None, SINKS], ids=["no sinks", "sinks"])
@pytest.mark.parametrize("score", SCORES)
def test_the_weights_are_those_of_the_formula(score, sinks):
    query, key, value, weights, sink_scores = float32(QUERY, KEY, VALUE, WEIGHTS.get(score), sinks)
    output, got = attend(score, query, key, value, weights=weights, sinks=sink_scores, return_attention_scores=True)
    expected = expected_weights(score, sinks)
    assert_close(got, expected, atol=1e-5)
    assert_close(output, np.einsum("bnts,bsnh->btnh", expected, np.repeat(VALUE, N // K, axis=2)), atol=1e-5)


def outputs_and_gradients(score, implementation, dtype, soft_cap=None, dropout=0.0):
    arrays = [QUERY, KEY, VALUE, SINKS, *([WEIGHTS[score]] if score in WEIGHTS else [])]
    projection = np.random.default_rng(9).normal(size=(B, T, N, V))
    mask = Causal() & Padding(np.arange(S)[None] < [[4], [0]])  # the second example has no key at all

    def loss(query, key, value, sinks, weights=None):
        output = attend(
            score,
            query,
            key,
            value,
            weights=weights,
            sinks=sinks,
            mask=mask,
            attn_logits_soft_cap=soft_cap,
            dropout=dropout,
            seed=3,
            implementation=implementation,
        )
        return ops.sum(output * ops.convert_to_tensor(projection, dtype))

    value, gradients = value_and_gradients(loss, [array.astype(dtype) for array in arrays])
    return [value, *gradients]


@tensorflow_only("chunked attention is")
@pytest.mark.parametrize("soft_cap", [None, 1.5])
@pytest.mark.parametrize("score", SCORES)
def test_tiles_with_sinks_give_the_outputs_and_gradients_of_the_dense_float64_reference(score, soft_cap, monkeypatch):
    from keras_attention.ops import chunked_tile

    monkeypatch.setattr(chunked_tile, "TILE_ELEMENTS", 200)
    expected = outputs_and_gradients(score, "dense", "float64", soft_cap)
    got = outputs_and_gradients(score, "chunked", "float32", soft_cap)
    for a, b in zip(got, expected, strict=True):
        assert np.abs(to_numpy(a) - to_numpy(b)).max() <= 1e-5 * np.abs(to_numpy(b)).max()


@tensorflow_only("chunked attention is")
def test_the_gradient_of_sinks_under_dropout_belongs_to_the_output():
    import tensorflow as tf

    def attend_to_few(sinks):
        few = [tf.constant(x[:1, :3]) for x in (QUERY, KEY, VALUE)]
        return dot_product_attention(*few, sinks=sinks, dropout=0.25, seed=5, implementation="chunked")

    theoretical, numerical = tf.test.compute_gradient(attend_to_few, [tf.constant(SINKS)], delta=1e-5)
    np.testing.assert_allclose(theoretical[0], numerical[0], atol=1e-7)


def test_a_zero_vector_is_like_nothing_and_has_a_finite_gradient_of_its_cosine():
    def loss(query):
        return ops.sum(attend("cosine", query, *float32(KEY, VALUE)))

    value, (gradient,) = value_and_gradients(loss, [np.zeros_like(QUERY, "float32")])
    assert np.isfinite(to_numpy(value))
    assert np.all(np.isfinite(to_numpy(gradient)))


def test_a_sink_takes_what_the_keys_leave():
    query, key, value = float32(QUERY, KEY, VALUE)
    _, low = dot_product_attention(query, key, value, sinks=ops.full((N,), -50.0), return_attention_scores=True)
    _, high = dot_product_attention(query, key, value, sinks=ops.full((N,), 50.0), return_attention_scores=True)
    assert_close(ops.sum(low, -1), np.ones((B, N, T)), atol=1e-6)
    assert_close(high, np.zeros((B, N, T, S)), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "bilinear"}, "`score` must be one of .* Received: score='bilinear'"),
        ({"score": "general"}, r"`score_weights` must be of shape \(4, 6, 6\) .* Received: None"),
        ({"score": "additive", "score_weights": np.ones((N, H + 1))}, r"of shape \(4, 6\) .* Received: shape \(4, 7\)"),
        ({"score_weights": np.ones((N, H))}, r"must be None for score='scaled_dot'. Received: shape \(4, 6\)"),
        ({"sinks": np.ones(N + 1)}, r"one score for each of the 4 query heads. Received: shape \(5,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dot_product_attention(*float32(QUERY, KEY, VALUE), **arguments)


def test_a_general_score_compares_heads_of_different_sizes():
    key = RNG.normal(size=(B, S, N, 2))
    weights = RNG.normal(size=(N, H, 2))
    value = RNG.normal(size=(B, S, N, V))
    _, got = attend("general", *float32(QUERY, key, value), weights=float32(weights)[0], return_attention_scores=True)
    scores = np.einsum("btnh,nhg,bsng->bnts", QUERY, weights, key)
    assert_close(got, keras.ops.softmax(ops.convert_to_tensor(scores, "float32")), atol=1e-5)
