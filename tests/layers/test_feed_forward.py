"""FeedForward: its plain and gated forms, their weights, masks, saving and errors."""

import math

import keras
import numpy as np
import pytest

from keras_attention.layers import FeedForward, TransformerBlock
from keras_attention.layers.keras_mask import get_keras_mask
from tests.backend import assert_close, assert_equal

B, T, D, F = 2, 3, 4, 6
X = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def with_biases(layer):
    """The layer, built, with biases that are not zero."""
    layer(X)
    for i, weight in enumerate(layer.weights):
        weight.assign(np.random.default_rng(i).normal(size=weight.shape))
    return layer


@pytest.mark.parametrize(("activation", "gate"), [("swiglu", silu), ("geglu", gelu)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_the_gated_forms_are_shazeers(activation, gate, use_bias):
    layer = with_biases(FeedForward(F, activation=activation, use_bias=use_bias))

    def dense(part, x):
        kernel, *bias = (weight.numpy() for weight in part.weights)
        return x @ kernel + sum(bias)

    expected = dense(layer.output_dense, gate(dense(layer.gate_dense, X)) * dense(layer.intermediate_dense, X))
    assert_close(layer(X), expected, atol=1e-4)
    assert len(layer.weights) == (6 if use_bias else 3)


def test_the_plain_form_keeps_its_weights_and_their_order():
    layer = with_biases(FeedForward(F, activation="relu"))
    assert [weight.path.split("/", 1)[1] for weight in layer.weights] == [
        "intermediate/kernel",
        "intermediate/bias",
        "output/kernel",
        "output/bias",
    ]
    w1, b1, w2, b2 = (weight.numpy() for weight in layer.weights)
    assert_close(layer(X), np.maximum(X @ w1 + b1, 0) @ w2 + b2, atol=1e-4)


def test_without_biases_zero_gives_zero():
    layer = with_biases(FeedForward(F, use_bias=False))
    assert [weight.shape for weight in layer.weights] == [(D, F), (F, D)]
    assert_equal(layer(np.zeros_like(X)), np.zeros_like(X))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("activation", ["gelu", "swiglu", "geglu"])
def test_a_model_trains_saves_loads_and_keeps_its_mask(activation, dtype, tmp_path):
    ids = keras.Input((None,), dtype="int32")
    embedded = keras.layers.Embedding(9, D, mask_zero=True)(ids)
    arguments = {"activation": activation, "use_bias": False, "dropout": 0.2, "seed": 1}
    model = keras.Model(ids, FeedForward(F, dtype=dtype, **arguments)(embedded))
    assert model.output_shape == (None, None, D)
    model.compile("sgd", "mse")
    sample = np.array([[3, 4, 0]])
    assert np.isfinite(model.fit(sample, np.ones((1, 3, D)), verbose=0).history["loss"][0])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_equal(keras.ops.cast(model(sample), "float32"), keras.ops.cast(again(sample), "float32"))
    assert_equal(get_keras_mask(again(sample)), sample != 0)
    config = again.layers[-1].get_config()
    assert {name: config[name] for name in arguments} == arguments


def test_a_block_is_gated_through_its_feed_forward_network(tmp_path):
    x = keras.Input((None, D))
    model = keras.Model(x, TransformerBlock(2, F, activation="swiglu")(x))
    assert model.layers[-1].feed_forward.gate_dense is not None
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.layers[-1].activation == "swiglu"
    assert_equal(model(X), again(X))


def test_an_activation_that_is_unknown_is_refused():
    with pytest.raises(ValueError, match="reglu"):
        FeedForward(F, activation="reglu")
