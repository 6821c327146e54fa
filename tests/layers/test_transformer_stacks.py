"""TransformerEncoder and TransformerDecoder: their blocks in a row, masks, scores, saving and errors."""

import keras
import numpy as np
import pytest

from keras_attention.layers import TransformerBlock
from keras_attention.layers.keras_mask import get_keras_mask
from keras_attention.layers.transformer_decoder import TransformerDecoder
from keras_attention.layers.transformer_encoder import TransformerEncoder
from tests.backend import assert_close, assert_equal, difference

B, T, S, D = 2, 5, 7, 16
OPTIONS = {
    "dropout": 0.1,
    "activation": "swiglu",
    "norm": "pre",
    "layer_norm_epsilon": 1e-6,
    "normalization": "rms",
    "use_bias": False,
    "rematerialize": True,
    "seed": 3,
}


def sequence(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("normalization", ["layer", "rms"])
def test_a_stack_is_its_blocks_in_a_row_and_a_last_norm_for_pre(norm, normalization):
    x, context = sequence(B, T, D), sequence(B, S, 12)
    decoder = TransformerDecoder(3, 4, 32, cross_attention=True, norm=norm, normalization=normalization)
    got = decoder(x, context)
    expected = x
    for stacked in decoder.blocks:
        block = TransformerBlock(4, 32, causal=True, cross_attention=True, norm=norm, normalization=normalization)
        block(x, context)
        block.set_weights(stacked.get_weights())
        expected = block(expected, context)
    if norm == "pre":
        expected = decoder.output_norm(expected)
    assert_close(got, expected, atol=1e-5)
    assert (decoder.output_norm is None) == (norm == "post")


def test_an_encoder_looks_both_ways_and_a_decoder_only_back():
    x = sequence(1, T, D)
    changed = x.copy()
    changed[:, 3:] += 1
    encoder, decoder = TransformerEncoder(2, 4, 32), TransformerDecoder(2, 4, 32)
    assert difference(encoder(x)[:, :3], encoder(changed)[:, :3]) > 1e-3
    assert_close(decoder(x)[:, :3], decoder(changed)[:, :3], atol=1e-6)
    only_itself = np.eye(T)
    assert_close(
        encoder(x, attention_mask=only_itself)[:, :3], encoder(changed, attention_mask=only_itself)[:, :3], atol=1e-6
    )


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("normalization", ["layer", "rms"])
def test_padding_never_changes_the_states_of_real_tokens_at_any_depth(norm, normalization):
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, D, mask_zero=True, embeddings_initializer="normal")(ids)
    options = {"norm": norm, "normalization": normalization, "activation": "geglu"}
    context = TransformerEncoder(3, 4, 32, **options)(x)
    model = keras.Model(ids, TransformerDecoder(3, 4, 32, cross_attention=True, **options)(x, context))
    for i, weight in enumerate(model.weights):
        if len(weight.shape) > 1:
            weight.assign(np.random.default_rng(i).normal(scale=0.6, size=weight.shape))
    alone, padded = model(np.array([[1, 2, 3]])), model(np.array([[1, 2, 3, 0, 0, 0]]))
    assert_close(alone, padded[:, :3], atol=2e-5)
    assert_equal(get_keras_mask(padded), [[True, True, True, False, False, False]])


def test_a_context_mask_reaches_every_block():
    decoder = TransformerDecoder(3, 4, 32, cross_attention=True)
    x, context = sequence(1, T, D), sequence(1, S, D, seed=1)
    changed = context.copy()
    changed[:, 4:] = 9
    mask = np.arange(S)[None] < 4
    assert_close(decoder(x, context, context_mask=mask), decoder(x, changed, context_mask=mask), atol=1e-6)


def test_scores_are_returned_for_every_block_with_the_symbolic_shapes():
    decoder = TransformerDecoder(2, 4, 32, cross_attention=True)
    output, scores = decoder(sequence(B, T, D), sequence(B, S, D), return_attention_scores=True)
    assert [{name: tuple(s.shape) for name, s in block.items()} for block in scores] == [
        {"self": (B, 4, T, T), "cross": (B, 4, T, S)}
    ] * 2
    symbolic, symbolic_scores = decoder(keras.Input((T, D)), keras.Input((S, D)), return_attention_scores=True)
    assert symbolic.shape == (None, *output.shape[1:])
    assert [{name: s.shape[1:] for name, s in block.items()} for block in symbolic_scores] == [
        {"self": (4, T, T), "cross": (4, T, S)}
    ] * 2
    _, scores = TransformerEncoder(3, 4, 32)(sequence(B, T, D), return_attention_scores=True)
    assert [list(block) for block in scores] == [["self"]] * 3


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_both_train_save_and_load_with_every_option(dtype, tmp_path):
    x = keras.Input((None, D))
    encoded = TransformerEncoder(2, 4, 32, dtype=dtype, **OPTIONS)(x)
    decoded = TransformerDecoder(2, 4, 32, cross_attention=True, dtype=dtype, **OPTIONS)(x, encoded)
    model = keras.Model(x, decoded)
    assert model.output_shape == (None, None, D)
    model.compile("sgd", "mse")
    before = [weight.numpy() for weight in model.trainable_weights]
    assert np.isfinite(model.fit(sequence(4, T, D), sequence(4, T, D, seed=1), verbose=0).history["loss"][0])
    assert all(np.any(a != b.numpy()) for a, b in zip(before, model.trainable_weights, strict=True))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    sample = sequence(B, T, D)
    assert_equal(keras.ops.cast(model(sample), "float32"), keras.ops.cast(again(sample), "float32"))
    for layer in again.layers[1:]:
        assert {name: getattr(layer, name) for name in OPTIONS} == OPTIONS
        assert (layer.num_layers, layer.num_heads, layer.intermediate_dim) == (2, 4, 32)
    assert again.layers[-1].cross_attention


def test_with_a_seed_a_stack_is_repeatable_and_its_blocks_drop_different_values():
    x = sequence(B, T, D)
    first, second = (TransformerEncoder(2, 4, 32, dropout=0.3, seed=11) for _ in range(2))
    first(x), second(x)
    second.set_weights(first.get_weights())
    assert_equal(first(x, training=True), second(x, training=True))
    assert first.blocks[0].seed != first.blocks[1].seed


@pytest.mark.parametrize("stack", [TransformerEncoder, TransformerDecoder])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": 0}, "Received: num_layers=0"),
        ({"num_heads": 0}, "Received: num_heads=0"),
        ({"norm": "sandwich"}, "Received: norm='sandwich'"),
        ({"normalization": "batch"}, "Received: normalization='batch'"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused_at_construction(stack, arguments, message):
    with pytest.raises(ValueError, match=message):
        stack(**{"num_layers": 2, "num_heads": 4, "intermediate_dim": 8, **arguments})


def test_a_context_that_is_missing_or_not_wanted_is_refused():
    with pytest.raises(ValueError, match="needs a `context`"):
        TransformerDecoder(2, 4, 32, cross_attention=True)(sequence(B, T, D))
    with pytest.raises(ValueError, match="if and only if"):
        TransformerDecoder(2, 4, 32)(sequence(B, T, D), sequence(B, S, D))
