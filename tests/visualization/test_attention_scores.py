"""Attention weights are found in every kind of model, and are those that the layers compute."""

import keras
import numpy as np
import pytest

from keras_attention.layers import MultiHeadAttention, TransformerBlock, TransformerDecoder
from keras_attention.models import TextEncoder
from keras_attention.visualization import attention_scores

IDS = np.array([[3, 4, 5, 6], [7, 8, 0, 0]])


def _functional(**options):
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(10, 8, mask_zero=True, name="embedding")(ids)
    for i in range(2):
        x = TransformerBlock(num_heads=2, intermediate_dim=16, dropout=0.5, name=f"block_{i}", **options)(x)
    return keras.Model(ids, keras.layers.Dense(10)(x))


def test_the_scores_of_a_functional_model_are_those_that_its_blocks_return():
    model = _functional()
    x = model.get_layer("embedding")(IDS)
    expected = {}
    for i in range(2):
        x, scores = model.get_layer(f"block_{i}")(x, return_attention_scores=True, training=False)
        expected[f"block_{i}/self_attention"] = scores["self"]
    found = attention_scores(model, IDS)
    assert list(found) == list(expected)
    for path, scores in expected.items():
        np.testing.assert_allclose(found[path], scores, atol=1e-6)
        np.testing.assert_array_equal(found[path][1, :, :, 2:], 0.0)


def test_afterwards_the_model_is_as_it_was():
    model = _functional()
    before = model(IDS).numpy()
    attention_scores(model, IDS)
    np.testing.assert_array_equal(model(IDS).numpy(), before)
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


def test_layers_are_chosen_by_parts_of_their_path_and_come_in_the_order_of_their_numbers():
    encoder = TextEncoder(10, 8, num_layers=11, num_heads=2, hidden_dim=8, intermediate_dim=8, name="encoder")
    ids = keras.Input((None,), dtype="int32")
    model = keras.Model(ids, keras.layers.Dense(2)(encoder(ids)))
    paths = [f"encoder/block_{i}/self_attention" for i in range(11)]
    assert list(attention_scores(model, IDS)) == paths
    assert list(attention_scores(model, IDS, ["block_10", "block_1"])) == [paths[1], paths[10]]
    assert list(attention_scores(model, IDS, ["self_attention"])) == paths
    assert attention_scores(model, IDS, ["block_3"])[paths[3]].shape == (2, 2, 4, 4)


def test_decoders_subclasses_keras_own_layer_and_a_layer_called_twice():
    class Model(keras.Model):
        def __init__(self):
            super().__init__(name="model")
            self.embedding = keras.layers.Embedding(10, 8)
            self.decoder = TransformerDecoder(1, 2, 8, cross_attention=True, name="decoder")
            self.attention = keras.layers.MultiHeadAttention(num_heads=4, key_dim=2, name="kerass")

        def call(self, ids):
            x = self.embedding(ids)
            y, scores = self.attention(x, x, return_attention_scores=True)
            assert scores.shape[1] == 4
            return self.decoder(self.attention(y, x), x[:, :3])

    model = Model()
    model(IDS)
    shapes = {path: scores.shape for path, scores in attention_scores(model, IDS).items()}
    assert {path.split("model/")[-1]: shape for path, shape in shapes.items()} == {
        "decoder/block_0/context_attention": (2, 2, 4, 3),
        "decoder/block_0/self_attention": (2, 2, 4, 4),
        "kerass": (2, 4, 4, 4),
        "kerass#1": (2, 4, 4, 4),
    }


def test_a_layer_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"`layers` .*block_0/self_attention, block_1/self_attention\).*layers='blck'"):
        attention_scores(_functional(), IDS, ["block_0", "blck"])
    none = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"`layers` must name attention layers of the model \(it has none\)"):
        attention_scores(none, IDS)


def test_attention_over_several_axes_is_refused():
    inputs = keras.Input((3, 4, 8))
    layer = MultiHeadAttention(num_heads=2, key_dim=4, attention_axes=(1, 2), name="both")
    model = keras.Model(inputs, layer(inputs, inputs))
    with pytest.raises(ValueError, match=r"`layers` must attend over the second axis.*'both'"):
        attention_scores(model, np.zeros((1, 3, 4, 8), "float32"))
