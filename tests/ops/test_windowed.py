"""Windowed attention: the same as dense, for any window, length, mask and bias, in memory linear in the length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_attention import biases, masks
from keras_attention.layers import RelativePositionBias
from keras_attention.ops import attention, dot_product_attention
from tests.backend import assert_close, compiled, to_numpy, value_and_gradients


def inputs(b=2, t=9, s=9, n=4, k=2, h=4, v=3, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype("float32") for shape in ((b, t, n, h), (b, s, k, h), (b, s, k, v))]


def both(arrays, **arguments):
    return [dot_product_attention(*arrays, implementation=name, **arguments) for name in ("windowed", "dense")]


@settings(max_examples=25, deadline=None)
@given(
    b=st.integers(0, 3),
    t=st.integers(1, 150),
    s=st.integers(1, 150),
    window=st.integers(1, 80),
    causal=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_length_and_window_equals_the_dense_one(b, t, s, window, causal, seed):
    mask = masks.SlidingWindow(window)
    assert_close(*both(inputs(b, t, s, seed=seed), mask=mask, is_causal=causal), atol=1e-5)


def terms(t, s, n=4):
    rng = np.random.default_rng(3)
    valid = rng.random((2, s)) < 0.7
    return {
        "padding": masks.Padding(valid),
        "padding of queries": masks.Padding(rng.random((2, t)) < 0.7, axis="query"),
        "segments": masks.Segments(
            np.arange(t)[None] // 5 * np.ones((2, 1)), np.arange(s)[None] // 5 * np.ones((2, 1))
        ),
        "explicit": masks.Explicit(rng.random((2, n, t, s)) < 0.5),
        "explicit row": masks.Explicit(rng.random((2, 1, 1, s)) < 0.5),
        "predicate": masks.Predicate(lambda rows, columns: (rows + columns) % 3 > 0),
        "alibi": biases.ALiBi(n),
        "matrix": biases.ExplicitBias(rng.normal(size=(n, t, s)).astype("float32")[None]),
        "column": biases.ExplicitBias(rng.normal(size=(2, 1, t, 1)).astype("float32")),
        "relative": RelativePositionBias(n).as_bias(),
    }


@pytest.mark.parametrize("name", terms(2, 2))
def test_every_mask_and_bias_equals_the_dense_one(name):
    t, s = 140, 133
    term = terms(t, s)[name]
    window = masks.SlidingWindow(7)
    arguments = {"mask": window & term} if isinstance(term, masks.Mask) else {"mask": window, "bias": term}
    assert_close(*both(inputs(t=t, s=s), **arguments), atol=1e-5)


def test_gradients_and_the_compiled_function_equal_the_dense_ones():
    arrays = inputs(t=130, s=130)
    results = []
    for name in ("windowed", "dense"):

        def loss(query, key, value, name=name):
            mask = masks.SlidingWindow(5)
            return ops.sum(ops.sin(dot_product_attention(query, key, value, mask=mask, implementation=name)))

        value, gradients = value_and_gradients(loss, arrays)
        results.append([value, *gradients])
        assert_close(compiled(loss)(*[ops.convert_to_tensor(x) for x in arrays]), value, rtol=1e-5)
    for a, b in zip(*results, strict=True):
        assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_dropout_is_repeatable_and_keeps_the_expectation():
    query, key, value = inputs(t=300, s=300)
    value = np.ones_like(value)
    first, second = (
        to_numpy(
            dot_product_attention(
                query, key, value, mask=masks.SlidingWindow(40), dropout=0.2, seed=1, implementation="windowed"
            )
        )
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert abs(first.mean() - 1) < 0.05
    assert first.std() > 0


def test_a_mask_without_a_bound_is_refused():
    for mask in (None, masks.Causal(), masks.PrefixLM(3)):
        with pytest.raises(ValueError, match="bounds how far a query reaches"):
            dot_product_attention(*inputs(), mask=mask, implementation="windowed")


def test_auto_takes_blocks_or_the_backends_own_attention_where_they_are_exact(monkeypatch):
    # What auto does on JAX and PyTorch, computed on whatever backend this is.
    monkeypatch.setattr(attention.keras.backend, "backend", lambda: "jax")
    taken = []
    for name in ("windowed_attention", "_fused_attention", "dense_attention"):
        real = getattr(attention, name)
        monkeypatch.setattr(attention, name, lambda a, name=name, real=real: taken.append(name) or real(a))
    arrays = inputs(t=120, s=120, v=4)
    valid = np.arange(120)[None] < [[50], [0]]
    for arguments, expected in (
        ({"mask": masks.SlidingWindow(9)}, "windowed_attention"),
        ({"mask": masks.SlidingWindow(90)}, "_fused_attention"),
        ({}, "_fused_attention"),
        ({"is_causal": True}, "_fused_attention"),
        ({"mask": masks.Padding(valid), "is_causal": True}, "_fused_attention"),
        ({"bias": biases.ALiBi(4)}, "dense_attention"),
        ({"attn_logits_soft_cap": 2.0}, "dense_attention"),
    ):
        got = dot_product_attention(*arrays, **arguments)
        assert taken.pop() == expected
        assert_close(got, dot_product_attention(*arrays, implementation="dense", **arguments), atol=1e-5)
        taken.clear()
