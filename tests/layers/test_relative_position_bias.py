"""RelativePositionBias: T5's buckets against its published code, its tiles, its gradient and its errors."""

import math

import keras
import numpy as np
import pytest

from keras_attention.layers.relative_position_bias import RelativePositionBias
from keras_attention.ops import dot_product_attention
from tests.backend import assert_close, assert_equal, to_numpy, value_and_gradients

N = 4


def t5_bucket(relative_position, bidirectional, num_buckets, max_distance):
    """`_relative_position_bucket` of T5's code, for one pair; relative_position is key minus query."""
    bucket = 0
    n = -relative_position
    if bidirectional:
        num_buckets //= 2
        bucket += int(n < 0) * num_buckets
        n = abs(n)
    else:
        n = max(n, 0)
    max_exact = num_buckets // 2
    if n < max_exact:
        return bucket + n
    logarithmic = max_exact + int(
        math.log(n / max_exact) / math.log(max_distance / max_exact) * (num_buckets - max_exact)
    )
    return bucket + min(logarithmic, num_buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (4, 3), (64, 256)])
def test_the_buckets_are_those_of_t5(bidirectional, num_buckets, max_distance):
    layer = RelativePositionBias(N, num_buckets, max_distance, bidirectional)
    rows, columns = np.arange(0, 600, 7), np.arange(0, 600, 3)
    expected = [[t5_bucket(int(s - t), bidirectional, num_buckets, max_distance) for s in columns] for t in rows]
    assert_equal(layer.buckets(rows, columns), expected)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_bias_is_the_embedding_of_the_bucket(bidirectional):
    layer = RelativePositionBias(N, 8, 20, bidirectional)
    bias = to_numpy(layer(np.arange(5), np.arange(9)))
    table = layer.embeddings.numpy()
    assert table.shape == (8, N)
    for t in range(5):
        for s in range(9):
            assert_equal(bias[0, :, t, s], table[t5_bucket(s - t, bidirectional, 8, 20)])


def test_a_tile_is_that_part_of_the_whole():
    layer = RelativePositionBias(N)
    whole = to_numpy(layer(np.arange(300), np.arange(300)))
    assert_equal(layer(np.arange(40, 60), np.arange(200, 300)), whole[:, :, 40:60, 200:])


def test_attention_takes_it_as_a_bias_with_a_gradient():
    layer = RelativePositionBias(N)
    x = np.random.default_rng(0).normal(size=(2, 6, N, 8)).astype("float32")
    positions = np.arange(6)
    layer(positions, positions)

    def output_and_gradient(bias):
        def loss():
            output = dot_product_attention(x, x, x, bias=bias())
            return keras.ops.sum(keras.ops.sin(output)), output

        (_, output), gradients = value_and_gradients(loss, [], layer.trainable_weights)
        return [output, *gradients]

    specified = output_and_gradient(layer.as_bias)
    written_out = output_and_gradient(lambda: layer(positions, positions))
    for got, expected in zip(specified, written_out, strict=True):
        assert_close(got, expected, atol=1e-5)
    assert np.abs(to_numpy(specified[1])).max() > 1e-4


def test_mixed_precision_does_not_round_the_bias():
    layer = RelativePositionBias(N, dtype="mixed_bfloat16", embeddings_initializer="normal")
    bias = layer(np.arange(3), np.arange(3))
    assert keras.backend.standardize_dtype(bias.dtype) == "float32"
    assert np.all(np.isfinite(to_numpy(bias)))
    assert_equal(bias[0, :, 0, 0], layer.embeddings.numpy()[0])


def test_symbolic_shapes_are_the_real_ones_and_a_model_saves_and_loads(tmp_path):
    rows, columns = keras.Input(batch_shape=(3,), dtype="int32"), keras.Input(batch_shape=(5,), dtype="int32")
    arguments = {"num_heads": N, "num_buckets": 8, "max_distance": 20, "bidirectional": False}
    model = keras.Model([rows, columns], RelativePositionBias(**arguments)(rows, columns))
    sample = [np.arange(3), np.arange(5)]
    assert model.output_shape == tuple(model(sample).shape) == (1, N, 3, 5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_equal(model(sample), again(sample))
    assert {name: getattr(again.layers[-1], name) for name in arguments} == arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 0}, "Received: num_heads=0"),
        ({"num_heads": N, "num_buckets": 7}, "Received: num_buckets=7 with bidirectional=True"),
        ({"num_heads": N, "num_buckets": 2}, "Received: num_buckets=2 with bidirectional=True"),
        ({"num_heads": N, "num_buckets": 1, "bidirectional": False}, "Received: num_buckets=1"),
        ({"num_heads": N, "max_distance": 8}, "here 8. Received: max_distance=8"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        RelativePositionBias(**arguments)
