"""What stands beside a text as padding never changes the states of its real tokens, at any depth, on any path."""

import keras
import numpy as np
import pytest

from keras_attention.layers import MultiHeadAttention, PositionalEncoding, TokenAndPositionEmbedding, TransformerBlock
from keras_attention.layers.keras_mask import get_keras_mask
from keras_attention.models import TextEncoder
from tests.backend import assert_close, assert_equal, difference, tensorflow_only, to_numpy, traced

V, D, HEADS = 30, 16, 4
ALONE = np.array([[1, 2, 3]], "int32")
PADDED = np.array([[1, 2, 3, 0, 0, 0]], "int32")


def attention():
    return MultiHeadAttention(HEADS, D // HEADS)


def embed(ids):
    return keras.layers.Embedding(V, D, mask_zero=True)(ids)


def attention_after_an_embedding(ids):
    x = embed(ids)
    return attention()(x, x)


def one_tensor_into_two_attentions(ids):
    x = embed(ids)
    attention()(x, x)
    return keras.layers.Add()([attention()(x, x), attention()(x, x)])


def three_decoder_layers_on_one_context(ids):
    context = attention_after_an_embedding(ids)
    x = embed(ids)
    for _ in range(3):
        x = keras.layers.Add()([x, attention()(x, x, use_causal_mask=True)])
        x = keras.layers.Add()([x, attention()(x, context)])
    return x


def post_norm_encoder_with_add(ids):
    x = embed(ids)
    for _ in range(2):
        x = keras.layers.LayerNormalization()(keras.layers.Add()([x, attention()(x, x)]))
        x = keras.layers.LayerNormalization()(keras.layers.Add()([x, keras.layers.Dense(D, "relu")(x)]))
    return x


def post_norm_encoder_with_plus(ids):
    # Keras's `+` carries no mask, so here it is handed on by hand.
    mask = keras.ops.not_equal(ids, 0)
    x = keras.layers.Embedding(V, D)(ids)
    for _ in range(2):
        x = keras.layers.LayerNormalization()(x + attention()(x, x, query_mask=mask, value_mask=mask))
        x = keras.layers.LayerNormalization()(x + keras.layers.Dense(D, "relu")(x))
    return x


def pre_norm_encoder_with_add(ids):
    x = embed(ids)
    for _ in range(2):
        y = keras.layers.LayerNormalization()(x)
        x = keras.layers.Add()([x, attention()(y, y)])
        y = keras.layers.LayerNormalization()(x)
        x = keras.layers.Add()([x, keras.layers.Dense(D, "relu")(y)])
    return x


def encoder_blocks(norm):
    def build(ids):
        x = TokenAndPositionEmbedding(V, 16, D)(ids)
        for _ in range(3):
            x = TransformerBlock(HEADS, 2 * D, norm=norm)(x)
        return x

    return build


def decoder_blocks(norm):
    def build(ids):
        context = PositionalEncoding()(embed(ids))
        x = PositionalEncoding()(embed(ids))
        for _ in range(3):
            context = TransformerBlock(HEADS, 2 * D, norm=norm)(context)
        for _ in range(3):
            x = TransformerBlock(HEADS, 2 * D, causal=True, cross_attention=True, norm=norm)(x, context)
        return x

    return build


def text_encoder(ids):
    return TextEncoder(V, 16, num_layers=3, num_heads=HEADS, hidden_dim=D, intermediate_dim=2 * D)(ids)


BUILDERS = {
    "attention_after_an_embedding": attention_after_an_embedding,
    "one_tensor_into_two_attentions": one_tensor_into_two_attentions,
    "three_decoder_layers_on_one_context": three_decoder_layers_on_one_context,
    "post_norm_encoder_with_add": post_norm_encoder_with_add,
    "post_norm_encoder_with_plus": post_norm_encoder_with_plus,
    "pre_norm_encoder_with_add": pre_norm_encoder_with_add,
    "encoder_blocks_post": encoder_blocks("post"),
    "encoder_blocks_pre": encoder_blocks("pre"),
    "decoder_blocks_post": decoder_blocks("post"),
    "decoder_blocks_pre": decoder_blocks("pre"),
    "text_encoder": text_encoder,
}


@pytest.fixture(scope="module")
def models():
    """One model a row, with weights large enough that a leak would show."""
    built = {}
    for name, build in BUILDERS.items():
        ids = keras.Input((None,), dtype="int32")
        built[name] = keras.Model(ids, build(ids), name=name)
        for i, weight in enumerate(built[name].weights):
            if len(weight.shape) > 1:
                weight.assign(np.random.default_rng(i).normal(scale=0.6, size=weight.shape))
    return built


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    """One SavedModel with a signature for each model, which `export` has run through TensorFlow's session loader."""
    import tensorflow as tf

    from keras_attention.serving import ServingFunction, export

    path = export(
        tmp_path_factory.mktemp("saved") / "padding",
        signatures={
            name: ServingFunction(
                lambda ids, model=model: {"states": model(ids)}, {"ids": tf.TensorSpec([None, None], tf.int32)}
            )
            for name, model in models.items()
        },
        resources=list(models.values()),
        examples={name: [{"ids": ALONE}, {"ids": PADDED}] for name in models},
    )
    return tf.saved_model.load(str(path))


def error(run):
    """max |states of the real tokens alone - beside padding|"""
    alone = to_numpy(run(ALONE))
    # Elsewhere than on TensorFlow, where equal rows give equal sums, in units of the states: some are in the thousands.
    unit = 1.0 if keras.backend.backend() == "tensorflow" else max(1.0, np.abs(alone).max())
    return float(difference(alone, to_numpy(run(PADDED))[:, :3])) / unit


@pytest.mark.parametrize("name", BUILDERS)
def test_eager_and_traced_states_do_not_depend_on_padding(models, name):
    model = models[name]
    assert error(model) <= 1e-5
    in_a_graph = traced(model)
    assert error(lambda ids: in_a_graph(keras.ops.convert_to_tensor(ids))) <= 1e-5
    assert error(lambda ids: model.predict(ids, verbose=0)) <= 1e-5
    assert np.abs(to_numpy(model(ALONE))).max() > 0.1


@pytest.mark.parametrize("name", BUILDERS)
def test_states_of_a_saved_and_loaded_model_do_not_depend_on_padding(models, name, tmp_path):
    models[name].save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert error(again) <= 1e-5
    assert_close(again(PADDED), models[name](PADDED), atol=1e-5)


@tensorflow_only("a SavedModel is")
@pytest.mark.parametrize("name", BUILDERS)
def test_states_of_a_saved_model_do_not_depend_on_padding(models, exported, name):
    signature = exported.signatures[name]
    assert error(lambda ids: signature(ids=keras.ops.convert_to_tensor(ids))["states"]) <= 1e-5


def test_the_measure_sees_a_mask_that_is_lost():
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(V, D)(ids)
    assert error(keras.Model(ids, attention()(x, x))) > 1e-4


@pytest.mark.parametrize("name", [name for name in BUILDERS if "plus" not in name])
def test_the_mask_reaches_the_end_of_the_model(models, name):
    assert_equal(get_keras_mask(models[name](PADDED)), PADDED != 0)
