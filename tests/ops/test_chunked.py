"""Chunked attention: the same outputs and gradients as the dense float64 reference, in memory linear in the length."""

import itertools
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_attention import biases, masks
from keras_attention.ops import chunked_tile, dot_product_attention
from tests.backend import tensorflow_only

pytestmark = tensorflow_only("the tiles are")

B, T, S, N, H, V = 2, 13, 17, 4, 3, 5
RNG = np.random.default_rng(0)
VALID = RNG.random((B, S)) < 0.7
VALID[0] = False  # an example in which nobody has any key
SEGMENTS = np.sort(RNG.integers(0, 3, (B, S)))

MASKS = {
    "no mask": lambda: None,
    "causal": masks.Causal,
    "window": lambda: masks.SlidingWindow(3),
    "causal window": lambda: masks.Causal() & masks.SlidingWindow(4),
    "prefix": lambda: masks.PrefixLM(4),
    "padding": lambda: masks.Padding(VALID),
    "causal padding of both": lambda: (
        masks.Causal() & masks.Padding(VALID) & masks.Padding(RNG_QUERY_VALID, axis="query")
    ),
    "segments": lambda: masks.Segments(SEGMENTS[:, :T], SEGMENTS),
    "explicit": lambda: masks.Explicit(EXPLICIT),
    "predicate": lambda: masks.Predicate(lambda rows, columns: (rows + columns) % 3 > 0),
}
RNG_QUERY_VALID = RNG.random((B, T)) < 0.8
EXPLICIT = RNG.random((B, N, T, S)) < 0.5
MATRIX, ROW = RNG.normal(size=(1, N, T, S)), RNG.normal(size=(B, 1, 1, S))
BIASES = {
    "no bias": lambda matrix, row: None,
    "alibi": lambda matrix, row: biases.ALiBi(N),
    "matrix": lambda matrix, row: biases.ExplicitBias(matrix),
    "column": lambda matrix, row: biases.ExplicitBias(matrix[..., :1]),
    "row": lambda matrix, row: biases.ExplicitBias(row),
    "all of them": lambda matrix, row: biases.ExplicitBias(matrix) + biases.ALiBi(N) + biases.ExplicitBias(row),
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """So many scores a tile that these short sequences have several."""
    monkeypatch.setattr(chunked_tile, "TILE_ELEMENTS", 200)


def tensors(kv_heads, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((B, T, N, H), (B, S, kv_heads, H), (B, S, kv_heads, V))
    return [tf.constant(rng.normal(size=shape), dtype) for shape in shapes]


def outputs_and_gradients(implementation, dtype, kv_heads, mask, bias, soft_cap=None, dropout=0.0, seed=None):
    sources = [*tensors(kv_heads, dtype), tf.constant(MATRIX, dtype), tf.constant(ROW, dtype)]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        output = dot_product_attention(
            *sources[:3],
            bias=BIASES[bias](*sources[3:]),
            mask=MASKS[mask](),
            attn_logits_soft_cap=soft_cap,
            dropout=dropout,
            seed=seed,
            implementation=implementation,
        )
        loss = tf.reduce_sum(output * tf.constant(np.random.default_rng(9).normal(size=output.shape), dtype))
    gradients = tape.gradient(loss, sources)
    return [output, *[gradient for gradient in gradients if gradient is not None]]


def relative_error(got, expected):
    got, expected = np.asarray(got, "float64"), np.asarray(expected, "float64")
    largest = np.abs(expected).max()
    # A bias that all keys of a row share has a gradient of zero: there the error is taken as it is.
    return np.abs(got - expected).max() / (largest if largest > 1e-9 else 1.0)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("bias", BIASES)
def test_outputs_and_gradients_equal_the_dense_float64_reference(mask, bias):
    for kv_heads, soft_cap in itertools.product((4, 2, 1), (None, 2.0)):
        expected = outputs_and_gradients("dense", "float64", kv_heads, mask, bias, soft_cap)
        got = outputs_and_gradients("chunked", "float32", kv_heads, mask, bias, soft_cap)
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert relative_error(a, b) <= 1e-5


@settings(max_examples=20, deadline=None)
@given(
    b=st.integers(0, 3),
    t=st.integers(1, 12),
    s=st.integers(1, 12),
    elements=st.integers(40, 500),
    mask=st.sampled_from(["none", "causal", "window"]),
)
def test_any_length_in_tiles_of_any_size_equals_the_dense_one(b, t, s, elements, mask):
    rng = np.random.default_rng(t)
    query, key = (tf.constant(rng.normal(size=(b, length, 2, 4)), "float32") for length in (t, s))
    mask = {"none": None, "causal": masks.Causal(), "window": masks.SlidingWindow(2)}[mask]
    results = []
    for implementation in ("dense", "chunked"):
        chunked_tile.TILE_ELEMENTS = elements
        with tf.GradientTape() as tape:
            tape.watch([query, key])
            output = dot_product_attention(query, key, key, mask=mask, implementation=implementation)
            loss = tf.reduce_sum(tf.sin(output))
        results.append([output, *tape.gradient(loss, [query, key])])
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_summed_in_float32(dtype):
    expected = outputs_and_gradients("dense", "float64", 4, "causal padding of both", "alibi")
    got = outputs_and_gradients("chunked", dtype, 4, "causal padding of both", "alibi")
    assert got[0].dtype == dtype
    for a, b in zip(got, expected, strict=True):
        assert np.all(np.isfinite(np.asarray(tf.cast(a, "float32"))))
        assert relative_error(tf.cast(a, "float32"), b) < (0.03 if dtype == "bfloat16" else 0.005)


def test_it_is_the_same_in_a_traced_function_with_unknown_lengths():
    query, key, value = tensors(2, "float32")
    free = [tf.TensorSpec((None, None, *x.shape[2:]), x.dtype) for x in (query, key, value)]

    def step(query, key, value):
        with tf.GradientTape() as tape:
            tape.watch([query, key, value])
            output = dot_product_attention(query, key, value, mask=masks.Causal(), implementation="chunked")
        return [output, *tape.gradient(output, [query, key, value])]

    for got, expected in zip(
        tf.function(step, input_signature=free)(query, key, value), step(query, key, value), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_auto_takes_tiles_where_there_are_many_scores_and_is_right_on_both_sides(monkeypatch):
    from keras_attention.ops import attention

    monkeypatch.setattr(attention, "_CHUNK_FROM", B * N * T * S)
    monkeypatch.setattr(attention, "_SHORT", 0)
    sources = tensors(4, "float32")
    function = tf.function(
        lambda *x: dot_product_attention(*x),
        input_signature=[tf.TensorSpec((None, None, *x.shape[2:]), x.dtype) for x in sources],
    )
    for cut in (S, S - 1):  # the second is just below the limit
        query, key, value = sources[0], sources[1][:, :cut], sources[2][:, :cut]
        expected = dot_product_attention(query, key, value, implementation="dense")
        np.testing.assert_allclose(function(query, key, value), expected, atol=1e-6)
    graph = tf.function(lambda *x: dot_product_attention(*x)).get_concrete_function(*sources).graph
    assert any("While" in op.type for op in graph.get_operations())


def test_dropout_is_the_same_twice_with_a_seed_and_its_gradient_belongs_to_its_output():
    first = outputs_and_gradients("chunked", "float64", 2, "causal", "matrix", dropout=0.25, seed=5)
    second = outputs_and_gradients("chunked", "float64", 2, "causal", "matrix", dropout=0.25, seed=5)
    other = outputs_and_gradients("chunked", "float64", 2, "causal", "matrix", dropout=0.25, seed=6)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(first[0] - other[0]).max() > 1e-3

    def attend(*sources):
        return dot_product_attention(*sources, mask=masks.Causal(), dropout=0.25, seed=5, implementation="chunked")

    few = [x[:1, :4] for x in tensors(2)]
    theoretical, numerical = tf.test.compute_gradient(attend, few, delta=1e-5)
    for a, b in zip(theoretical, numerical, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_expectation(rate, monkeypatch):
    monkeypatch.setattr(chunked_tile, "TILE_ELEMENTS", 5000)
    query = tf.zeros((1, 100, 2, 4))
    ones = tf.ones((1, 300, 2, 1))
    output = dot_product_attention(
        query, tf.zeros((1, 300, 2, 4)), ones, dropout=rate, seed=3, implementation="chunked"
    )
    assert abs(float(tf.reduce_mean(output)) - 1) < 0.05
    deviation = np.sqrt(rate / (1 - rate) / 300)
    assert 0.8 * deviation < float(tf.math.reduce_std(output)) < 1.25 * deviation


def test_a_dropout_just_below_one_still_keeps_something_to_scale():
    output = dot_product_attention(*tensors(4), dropout=0.9999, seed=1, implementation="chunked")
    assert np.all(np.isfinite(output))


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="never holds the scores"):
        dot_product_attention(*tensors(4), implementation="chunked", return_attention_scores=True)
    with pytest.raises(ValueError, match="Received: implementation='flash'"):
        dot_product_attention(*tensors(4), implementation="flash")
    with pytest.raises(ValueError, match="Received: attn_logits_soft_cap=0"):
        dot_product_attention(*tensors(4), attn_logits_soft_cap=0)


STEP = """
    import re, sys
    import tensorflow as tf
    from keras_attention.layers import MultiHeadAttention

    length, window = int(sys.argv[1]), int(sys.argv[2]) or None
    layer = MultiHeadAttention(8, 32, sliding_window=window)
    x = tf.random.normal((1, length, 256))
    layer.build(x.shape, x.shape)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(layer(x, x)))
        return tape.gradient(loss, [weight.value for weight in layer.trainable_weights])

    def peak():  # not ru_maxrss, which begins with the size of the process that started this one
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

    before = peak()
    step(x)
    print((peak() - before) / 2**20)
"""


@pytest.mark.parametrize(("length", "window"), [(8192, 0), (16384, 256)])
def test_a_training_step_on_a_long_sequence_takes_at_most_half_a_gibibyte(length, window):
    command = [sys.executable, "-c", textwrap.dedent(STEP), str(length), str(window)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert 0.001 < float(done.stdout) < 0.5
