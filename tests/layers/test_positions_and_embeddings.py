"""PositionalEncoding, TokenAndPositionEmbedding and FeedForward: their formulas, masks and saving."""

import keras
import numpy as np
import pytest

from keras_attention.layers import FeedForward, PositionalEncoding, TokenAndPositionEmbedding, gelu_tanh
from keras_attention.layers.keras_mask import get_keras_mask
from tests.backend import assert_close, assert_equal, difference, to_numpy


def test_the_encoding_is_the_papers_formula():
    length, size = 40, 10
    got = PositionalEncoding()(np.zeros((1, length, size), "float32"))[0]
    expected = np.zeros((length, size))
    for position in range(length):
        for i in range(0, size, 2):
            angle = position / 10_000 ** (i / size)
            expected[position, i], expected[position, i + 1] = np.sin(angle), np.cos(angle)
    assert_close(got, expected, atol=1e-5)


def test_an_odd_size_and_a_start_index_are_positions_too():
    layer = PositionalEncoding()
    whole = layer(np.zeros((1, 9, 7), "float32"))
    assert_close(layer(np.zeros((1, 4, 7), "float32"), start_index=5), whole[:, 5:], atol=1e-6)


def test_the_encodings_inner_products_depend_on_the_distance_only():
    encoding = to_numpy(PositionalEncoding()(np.zeros((1, 30, 16), "float32"))[0])
    products = encoding @ encoding.T
    for distance in (1, 4, 11):
        assert_close(np.diagonal(products, distance), products[0, distance], atol=1e-4)


def test_neighbouring_positions_differ_in_bfloat16_beyond_what_it_can_count():
    encoding = PositionalEncoding(dtype="bfloat16")(np.zeros((1, 1000, 64)))
    encoding = to_numpy(encoding)[0]
    assert difference(encoding[900], encoding[901]) > 0.3


def test_embeddings_are_the_sum_of_token_and_position_and_carry_the_mask():
    layer = TokenAndPositionEmbedding(10, 6, 4, pad_id=1)
    ids = np.array([[3, 5, 1], [2, 1, 1]])
    out = layer(ids)
    tokens, positions = layer.token_embeddings.numpy(), layer.position_embeddings.numpy()
    assert_close(out, tokens[ids] + positions[:3], atol=1e-6)
    assert_equal(get_keras_mask(out), ids != 1)
    unpadded = TokenAndPositionEmbedding(10, 6, 4, pad_id=None)(ids)
    assert get_keras_mask(unpadded) is None


def test_ids_longer_than_the_positions_are_refused():
    with pytest.raises(ValueError, match=r"\(6\). Received: shape \(1, 7\)"):
        TokenAndPositionEmbedding(10, 6, 4)(np.ones((1, 7), "int32"))


@pytest.mark.parametrize("name", ["vocabulary_size", "sequence_length", "embedding_dim"])
def test_sizes_that_are_not_positive_are_refused(name):
    sizes = {"vocabulary_size": 3, "sequence_length": 3, "embedding_dim": 3, name: 0}
    with pytest.raises(ValueError, match=f"Received: {name}=0"):
        TokenAndPositionEmbedding(**sizes)
    with pytest.raises(ValueError, match="Received: intermediate_dim=0"):
        FeedForward(0)
    with pytest.raises(ValueError, match="Received: max_wavelength=0"):
        PositionalEncoding(max_wavelength=0)


def test_feed_forward_is_two_dense_layers():
    layer = FeedForward(5, activation="relu")
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    out = layer(x)
    (w1, b1, w2, b2) = (w.numpy() for w in layer.weights)
    assert_close(out, np.maximum(x @ w1 + b1, 0) @ w2 + b2, atol=1e-5)


def test_gelu_tanh_is_the_approximation():
    x = np.linspace(-4, 4, 50, dtype="float32")
    expected = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    assert_close(gelu_tanh(x), expected, atol=1e-5)


def test_a_model_of_them_all_saves_loads_and_keeps_its_mask(tmp_path):
    ids = keras.Input((None,), dtype="int32")
    x = PositionalEncoding(max_wavelength=100)(TokenAndPositionEmbedding(10, 6, 4, pad_id=2)(ids))
    x = FeedForward(8, activation=gelu_tanh, dropout=0.2, seed=1)(x)
    model = keras.Model(ids, x)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    sample = np.array([[3, 4, 2]])
    assert_close(model(sample), again(sample), atol=1e-6)
    assert_equal(get_keras_mask(again(sample)), sample != 2)
