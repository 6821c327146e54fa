"""Linear attention: its definition in numpy, causal and not, under padding, at any length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_attention import masks
from keras_attention.ops import dot_product_attention, linear_attention
from tests.backend import assert_close, compiled, to_numpy, value_and_gradients


def inputs(b=2, t=9, s=9, n=4, k=2, h=4, v=3, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype("float32") for shape in ((b, t, n, h), (b, s, k, h), (b, s, k, v))]


def elu_plus_one(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0))) + 1


def by_definition(query, key, value, allowed, features=elu_plus_one):
    groups = query.shape[2] // key.shape[2]
    key, value = np.repeat(key, groups, 2), np.repeat(value, groups, 2)
    weights = np.einsum("btnh,bsnh->bnts", features(query.astype("float64")), features(key.astype("float64"))) * allowed
    total = weights.sum(-1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return np.einsum("bnts,bsnh->btnh", weights, value)


@settings(max_examples=25, deadline=None)
@given(b=st.integers(0, 3), t=st.integers(1, 300), s=st.integers(1, 300), causal=st.booleans(), seed=st.integers(0, 99))
def test_it_is_its_definition_at_any_length(b, t, s, causal, seed):
    arrays = inputs(b, t, s, seed=seed)
    allowed = np.tril(np.ones((t, s))) if causal else 1.0
    assert_close(linear_attention(*arrays, is_causal=causal), by_definition(*arrays, allowed), atol=2e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_padded_keys_take_no_part_and_padded_queries_and_those_without_keys_get_zeros(causal):
    arrays = inputs(t=200, s=200)
    keys, queries = np.arange(200)[None] < [[150], [0]], np.arange(200)[None] < [[170], [200]]
    mask = masks.Padding(keys) & masks.Padding(queries, axis="query")
    mask = mask & masks.Causal() if causal else mask
    allowed = keys[:, None, None, :] & queries[:, None, :, None]
    allowed = allowed & np.tril(np.ones((200, 200), bool)) if causal else allowed
    got = to_numpy(dot_product_attention(*arrays, mask=mask, implementation="linear"))
    assert_close(got, by_definition(*arrays, allowed), atol=2e-5)
    assert np.all(got[1] == 0)


def test_other_feature_maps_are_taken():
    arrays = inputs()
    assert_close(
        linear_attention(*arrays, feature_map="relu"),
        by_definition(*arrays, 1.0, lambda x: np.maximum(x, 0)),
        atol=1e-5,
    )
    assert_close(
        linear_attention(*arrays, feature_map=lambda x: ops.exp(x)), by_definition(*arrays, 1.0, np.exp), atol=1e-5
    )


def test_gradients_equal_those_of_the_definition_and_the_compiled_function_is_the_same():
    arrays = inputs(t=140, s=140, k=4)

    def quadratic(query, key, value):
        query, key = ops.elu(query) + 1, ops.elu(key) + 1
        weights = ops.einsum("btnh,bsnh->bnts", query, key) * ops.tril(ops.ones((140, 140)))
        return ops.einsum("bnts,bsnh->btnh", weights / ops.sum(weights, -1, keepdims=True), value)

    def loss_of(function):
        return lambda *x: ops.sum(ops.sin(function(*x)))

    def linear(*x):
        return linear_attention(*x, is_causal=True)

    expected = value_and_gradients(loss_of(quadratic), arrays)
    got = value_and_gradients(loss_of(linear), arrays)
    for a, b in zip([got[0], *got[1]], [expected[0], *expected[1]], strict=True):
        assert_close(a, b, atol=1e-4)
    assert_close(compiled(linear)(*[ops.convert_to_tensor(x) for x in arrays]), linear(*arrays), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_summed_in_float32(dtype):
    arrays = inputs(t=2000, s=2000)
    got = linear_attention(*[ops.cast(x, dtype) for x in arrays], is_causal=True)
    assert dtype in str(got.dtype)
    assert_close(got, linear_attention(*arrays, is_causal=True), atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": masks.SlidingWindow(3)}, "Causal and Padding only. Received: mask=SlidingWindow"),
        ({"bias": np.zeros((9, 9), "float32")}, "has no scores.* Received: bias"),
        ({"dropout": 0.1}, "Received: dropout"),
        ({"return_attention_scores": True}, "Received: attention scores"),
        ({"score": "cosine"}, "Received: score"),
    ],
)
def test_what_has_no_meaning_without_scores_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dot_product_attention(*inputs(), implementation="linear", **arguments)


def test_an_unknown_feature_map_is_refused():
    with pytest.raises(ValueError, match="Received: feature_map='cos'"):
        linear_attention(*inputs(), feature_map="cos")
