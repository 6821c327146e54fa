"""AttentionPooling: against its formula, under padding, saved, in half precision, and its errors."""

import keras
import numpy as np
import pytest

from keras_attention.layers import MultiHeadAttention, TransformerBlock
from keras_attention.layers.attention_pooling import AttentionPooling
from keras_attention.layers.keras_mask import get_keras_mask
from tests.backend import assert_close, assert_equal, difference, to_numpy

B, T, D = 2, 5, 12
X = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")


@pytest.mark.parametrize("num_queries", [1, 3])
def test_it_is_multi_head_attention_from_its_queries(num_queries):
    layer = AttentionPooling(3, 4, num_queries=num_queries)
    got = layer(X)
    attention = keras.layers.MultiHeadAttention(3, 4)
    queries = np.broadcast_to(layer.queries.numpy(), (B, num_queries, D))
    attention(queries, X)
    attention.set_weights(layer.attention.get_weights())
    expected = to_numpy(attention(queries, X))
    assert_close(got, expected[:, 0] if num_queries == 1 else expected, atol=1e-5)
    assert layer.queries.shape == (num_queries, D)
    assert type(layer.attention) is MultiHeadAttention


def test_padding_never_changes_what_a_text_is_pooled_to_behind_deep_blocks():
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, D, mask_zero=True, embeddings_initializer="normal")(ids)
    for _ in range(3):
        x = TransformerBlock(3, 16)(x)
    model = keras.Model(ids, AttentionPooling(3, 4)(x))
    alone, padded = model(np.array([[1, 2, 3]])), model(np.array([[1, 2, 3, 0, 0, 0]]))
    assert_close(alone, padded, atol=1e-5)
    assert get_keras_mask(padded) is None
    assert difference(alone, model(np.array([[1, 2, 3, 4, 4, 4]]))) > 1e-3


def test_a_mask_given_hides_and_scores_have_the_symbolic_shape():
    layer = AttentionPooling(3, 4, num_queries=2)
    mask = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    pooled, scores = layer(X, mask=mask, return_attention_scores=True)
    assert np.all(to_numpy(scores)[0, :, :, 2:] == 0)
    assert_close(to_numpy(scores).sum(axis=-1), 1, atol=1e-5)
    symbolic, symbolic_scores = layer(keras.Input((T, D)), return_attention_scores=True)
    assert symbolic.shape == (None, *pooled.shape[1:]) == (None, 2, D)
    assert symbolic_scores.shape == (None, *scores.shape[1:]) == (None, 3, 2, T)


def test_a_text_of_padding_only_is_finite_and_depends_on_nothing():
    layer = AttentionPooling(3, 4)
    nothing = np.zeros((B, T), bool)
    assert_equal(layer(X, mask=nothing), layer(X + 1, mask=nothing))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_model_trains_saves_and_loads_in_every_precision(dtype, tmp_path):
    x = keras.Input((None, D))
    arguments = {"num_heads": 3, "key_dim": 4, "num_queries": 2, "dropout": 0.1, "use_bias": False, "seed": 1}
    model = keras.Model(x, AttentionPooling(dtype=dtype, **arguments)(x))
    model.compile("sgd", "mse")
    before = [weight.numpy() for weight in model.trainable_weights]
    assert np.isfinite(model.fit(X, np.ones((B, 2, D)), verbose=0).history["loss"][0])
    assert all(np.any(a != b.numpy()) for a, b in zip(before, model.trainable_weights, strict=True))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_equal(keras.ops.cast(model(X), "float32"), keras.ops.cast(again(X), "float32"))
    assert {name: getattr(again.layers[-1], name) for name in arguments} == arguments


@pytest.mark.parametrize("name", ["num_heads", "key_dim", "num_queries"])
def test_sizes_that_are_not_positive_are_refused(name):
    with pytest.raises(ValueError, match=f"Received: {name}=0"):
        AttentionPooling(**{"num_heads": 3, "key_dim": 4, name: 0})
