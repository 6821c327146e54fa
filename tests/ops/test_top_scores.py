"""The largest weights of every query: those of the whole matrix, without ever holding it."""

import numpy as np
import pytest

from keras_attention.biases import ALiBi
from keras_attention.masks import Causal, Padding
from keras_attention.ops import dot_product_attention
from tests.backend import assert_close, tensorflow_only, to_numpy


def inputs(b=2, t=70, s=50, n=4, k=2, h=4):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype("float32") for shape in ((b, t, n, h), (b, s, k, h), (b, s, k, h))]


@pytest.mark.parametrize("t", [1, 31, 32, 70])
def test_they_are_the_largest_of_the_whole_matrix_and_their_keys(t):
    arrays = inputs(t=t)
    arguments = {"mask": Causal() & Padding(np.arange(50)[None] < [[40], [0]]), "bias": ALiBi(4)}
    plain, weights = dot_product_attention(*arrays, return_attention_scores=True, **arguments)
    output, top = dot_product_attention(*arrays, top_scores=5, **arguments)
    weights = to_numpy(weights)
    assert_close(output, plain, atol=1e-5)
    assert_close(top.weights, -np.sort(-weights, axis=-1)[..., :5], atol=1e-6)
    assert_close(np.take_along_axis(weights, to_numpy(top.keys).astype(int), axis=-1), top.weights, atol=1e-6)


@tensorflow_only("memory is measured on it")
def test_a_long_sequence_is_looked_at_without_its_matrix():
    import re
    from pathlib import Path

    import tensorflow as tf

    def peak():
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20

    look = tf.function(lambda x: dot_product_attention(x, x, x, top_scores=4)[1].keys)
    look(tf.zeros((1, 64, 8, 16)))
    before = peak()
    keys = look(tf.random.stateless_normal((1, 16384, 8, 16), seed=(1, 2)))
    assert keys.shape == (1, 8, 16384, 4)
    assert peak() - before < 1.0  # the matrix alone has 8 GiB


@pytest.mark.parametrize("k", [0, 51, True, 2.0])
def test_a_number_of_keys_that_is_none_or_too_many_is_refused(k):
    with pytest.raises(ValueError, match="`top_scores` must be a positive integer, at most the number of keys"):
        dot_product_attention(*inputs(), top_scores=k)
