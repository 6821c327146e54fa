"""PositionEmbedding and SegmentEmbedding: what they add, their masks, saving and errors."""

import keras
import numpy as np
import pytest

from keras_attention.layers.keras_mask import get_keras_mask
from keras_attention.layers.position_embedding import PositionEmbedding
from keras_attention.layers.segment_embedding import SegmentEmbedding
from tests.backend import assert_close, assert_equal, to_numpy, traced

B, T, D = 2, 3, 4
X = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")
SEGMENTS = np.array([[0, 0, 1], [1, 2, 2]])


def test_every_position_gets_its_own_vector():
    layer = PositionEmbedding(6)
    assert_close(layer(X), X + layer.position_embeddings.numpy()[:T], atol=1e-6)
    assert layer.position_embeddings.shape == (6, D)


def test_a_start_index_moves_the_positions_eager_and_traced():
    layer = PositionEmbedding(6)
    expected = X + to_numpy(layer(np.zeros((1, 6, D), "float32")))[:, 2 : 2 + T]
    assert_close(layer(X, start_index=2), expected, atol=1e-6)
    moved = traced(lambda x, start: layer(x, start_index=start))
    assert_close(moved(keras.ops.convert_to_tensor(X), keras.ops.convert_to_tensor(2)), expected, atol=1e-6)


def test_every_segment_gets_its_own_vector_and_all_is_segment_0_by_default():
    layer = SegmentEmbedding(3)
    got = layer(X, SEGMENTS)
    table = layer.segment_embeddings.numpy()
    assert_close(got, X + table[SEGMENTS], atol=1e-6)
    assert_close(layer(X), X + table[0], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_model_of_both_saves_loads_and_keeps_its_mask(dtype, tmp_path):
    ids, segments = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, D, mask_zero=True, dtype=dtype)(ids)
    x = PositionEmbedding(6, embeddings_initializer="normal", dtype=dtype)(x)
    x = SegmentEmbedding(3, embeddings_initializer="normal", dtype=dtype)(x, segments)
    model = keras.Model([ids, segments], x)
    assert model.output_shape == (None, None, D)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    sample = [np.array([[3, 4, 0], [5, 0, 0]]), SEGMENTS]
    output = to_numpy(model(sample))
    assert np.all(np.isfinite(output))
    assert_equal(output, again(sample))
    assert_equal(get_keras_mask(again(sample)), sample[0] != 0)
    (positions,) = (layer for layer in again.layers if isinstance(layer, PositionEmbedding))
    assert (positions.sequence_length, again.layers[-1].num_segments) == (6, 3)


def test_sequences_beyond_the_positions_are_refused():
    with pytest.raises(ValueError, match=r"\(2\). Received: shape \(2, 3, 4\) with start_index=0"):
        PositionEmbedding(2)(X)
    with pytest.raises(ValueError, match=r"\(4\). Received: shape \(2, 3, 4\) with start_index=2"):
        PositionEmbedding(4)(X, start_index=2)


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_sizes_that_are_not_positive_integers_are_refused(value):
    with pytest.raises(ValueError, match=f"Received: sequence_length={value}"):
        PositionEmbedding(value)
    with pytest.raises(ValueError, match=f"Received: num_segments={value}"):
        SegmentEmbedding(value)
