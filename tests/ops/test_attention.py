"""The attention function against a float64 reference in numpy, whatever the implementation."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_attention import masks
from keras_attention.ops import dot_product_attention
from tests.backend import (
    assert_close,
    assert_equal,
    assert_gradients_equal_finite_differences,
    float64,
    not_on_torch,
    to_numpy,
    value_and_gradients,
)


def reference(query, key, value, allowed, bias=0.0, scale=None):
    """Attention in float64; a row that may attend to nothing is zero."""
    query, key, value = (np.asarray(x, "float64") for x in (query, key, value))
    scale = 1 / np.sqrt(query.shape[-1]) if scale is None else scale
    scores = np.einsum("btnh,bsnh->bnts", query, key) * scale + bias
    allowed = np.broadcast_to(allowed, scores.shape)
    highest = np.where(allowed, scores, -np.inf).max(-1, keepdims=True, initial=-1e300)
    weights = np.where(allowed, np.exp(np.where(allowed, scores - highest, 0)), 0)
    total = weights.sum(-1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return np.einsum("bnts,bsnh->btnh", weights, value), weights


def inputs(b=2, t=5, s=7, n=3, h=4, v=6, seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=shape).astype(dtype) for shape in ((b, t, n, h), (b, s, n, h), (b, s, n, v)))


@settings(max_examples=60, deadline=None)
@given(
    b=st.integers(0, 3),
    t=st.integers(1, 6),
    s=st.integers(1, 6),
    n=st.integers(1, 3),
    seed=st.integers(0, 2**31),
    with_bias=st.booleans(),
    causal=st.booleans(),
    scale=st.sampled_from([None, 1.0, 0.1]),
)
def test_it_equals_the_float64_reference_for_any_shape_mask_and_bias(b, t, s, n, seed, with_bias, causal, scale):
    rng = np.random.default_rng(seed)
    query, key, value = inputs(b, t, s, n, seed=seed)
    allowed = rng.random((b, n, t, s)) < 0.6
    bias = rng.normal(size=(1, n, t, s)).astype("float32") if with_bias else None
    output, weights = dot_product_attention(
        query, key, value, bias=bias, mask=allowed, scale=scale, is_causal=causal, return_attention_scores=True
    )
    if causal:
        allowed = allowed & (np.arange(t)[:, None] >= np.arange(s))
    expected, expected_weights = reference(query, key, value, allowed, 0.0 if bias is None else bias, scale)
    assert_close(output, expected, atol=1e-5)
    assert_close(weights, expected_weights, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_row_that_may_attend_to_nothing_gives_zeros_and_a_zero_gradient(dtype):
    allowed = np.ones((2, 1, 5, 7), bool)
    allowed[0, :, 2] = False

    def loss(*sources):
        output = dot_product_attention(*sources, mask=allowed)
        return keras.ops.sum(keras.ops.square(output)), output

    with float64():
        (_, output), gradients = value_and_gradients(loss, [keras.ops.cast(x, dtype) for x in inputs()])
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    assert np.all(to_numpy(output)[0, 2] == 0)
    assert np.all(to_numpy(gradients[0])[0, 2] == 0)
    for gradient in gradients:
        assert np.all(np.isfinite(to_numpy(gradient)))


@not_on_torch("Keras multiplies matrices of float64 in float32 there")
def test_gradients_equal_finite_differences_in_float64():
    query, key, value = inputs(b=1, t=3, s=4, n=2, h=3, v=3, dtype="float64")
    allowed = np.random.default_rng(1).random((1, 2, 3, 4)) < 0.7
    allowed[0, 0, 1] = False
    with float64():
        assert_gradients_equal_finite_differences(
            lambda *x: dot_product_attention(*x, mask=allowed, implementation="dense"), [query, key, value], atol=1e-8
        )


def test_half_precision_products_do_not_overflow():
    query = np.full((1, 2, 1, 64), 100, "float16")
    assert np.all(np.isfinite(to_numpy(dot_product_attention(query, query, query))))


def test_scores_of_huge_size_stay_finite():
    query, key, value = (x * 1e4 for x in inputs())
    output = dot_product_attention(query, key, value, mask=np.ones((5, 7), bool), is_causal=True)
    assert np.all(np.isfinite(to_numpy(output)))


def test_dropout_with_a_seed_is_the_same_twice_and_keeps_the_expectation():
    query, key, value = inputs(b=1, t=64, s=64)
    value = np.ones_like(value)
    first = dot_product_attention(query, key, value, dropout=0.3, seed=7)
    second = dot_product_attention(query, key, value, dropout=0.3, seed=7)
    assert_equal(first, second)
    assert abs(float(np.mean(to_numpy(first))) - 1) < 0.05
    assert float(np.std(to_numpy(first))) > 0


def test_returned_scores_are_those_before_dropout():
    query, key, value = inputs()
    _, weights = dot_product_attention(query, key, value, dropout=0.5, seed=1, return_attention_scores=True)
    assert_close(np.sum(to_numpy(weights), -1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 5, 3, 4), (2, 7, 3, 4), (2, 7, 12)), "rank 4"),
        (((2, 5, 3, 4), (3, 7, 3, 4), (3, 7, 3, 4)), "same batch size"),
        (((2, 5, 3, 4), (2, 7, 2, 4), (2, 7, 2, 4)), "same number of heads, which divides"),
        (((2, 5, 4, 4), (2, 7, 2, 4), (2, 7, 4, 4)), "same number of heads"),
        (((2, 5, 3, 4), (2, 7, 3, 5), (2, 7, 3, 4)), "same head size"),
        (((2, 5, 3, 4), (2, 7, 3, 4), (2, 6, 3, 4)), "same length"),
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes, message):
    with pytest.raises(ValueError, match=message) as error:
        dot_product_attention(*(np.zeros(shape, "float32") for shape in shapes))
    assert "Received: query of shape" in str(error.value)


def test_a_specification_and_its_tensor_are_the_same_mask():
    query, key, value = inputs(t=6, s=6)
    window = np.abs(np.arange(6)[:, None] - np.arange(6)) < 2
    specified = dot_product_attention(query, key, value, mask=masks.Causal() & masks.SlidingWindow(2))
    written_out = dot_product_attention(query, key, value, mask=np.tril(window))
    assert_equal(specified, written_out)
