"""TransformerBlock: its two forms against a plain composition of Keras layers, its options and its errors."""

import keras
import numpy as np
import pytest

from keras_attention.layers import MultiHeadAttention, TransformerBlock

D = 16


def sequence(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def layer_norm(x, normalization):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * normalization.gamma.numpy() + normalization.beta.numpy()


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_decoder_block_is_its_parts_with_residuals_and_normalisation(norm):
    block = TransformerBlock(4, 32, causal=True, cross_attention=True, norm=norm)
    x, context = sequence(2, 5, D), sequence(2, 7, 12, seed=1)
    got = block(x, context)

    def residual(x, f, normalization):
        if norm == "pre":
            return x + np.asarray(f(layer_norm(x, normalization)))
        return layer_norm(x + np.asarray(f(x)), normalization)

    expected = residual(x, lambda y: block.self_attention(y, y, use_causal_mask=True), block.self_attention_norm)
    expected = residual(expected, lambda y: block.context_attention(y, context), block.context_attention_norm)
    expected = residual(expected, block.feed_forward, block.feed_forward_norm)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_causal_block_does_not_look_ahead():
    block = TransformerBlock(4, 32, causal=True)
    x = sequence(1, 6, D)
    changed = x.copy()
    changed[:, 4:] += 1
    np.testing.assert_allclose(block(x)[:, :4], block(changed)[:, :4], atol=1e-6)
    assert np.abs(block(x)[:, 4:] - block(changed)[:, 4:]).max() > 1e-3


def test_an_attention_mask_and_a_context_mask_hide_what_they_say():
    block = TransformerBlock(4, 32, cross_attention=True)
    x, context = sequence(1, 4, D), sequence(1, 5, D, seed=1)
    mask = np.array([[1, 1, 1, 0, 0]])
    changed = context.copy()
    changed[:, 3:] = 9
    np.testing.assert_allclose(block(x, context, context_mask=mask), block(x, changed, context_mask=mask), atol=1e-6)
    only_itself = np.eye(4)[None]
    changed = x.copy()
    changed[:, 3] += 1
    np.testing.assert_allclose(
        block(x, context, attention_mask=only_itself)[:, :3],
        block(changed, context, attention_mask=only_itself)[:, :3],
        atol=1e-6,
    )


def test_scores_are_returned_by_name_and_have_the_symbolic_shapes():
    block = TransformerBlock(4, 32, cross_attention=True)
    output, scores = block(sequence(2, 3, D), sequence(2, 5, D), return_attention_scores=True)
    assert {name: tuple(s.shape) for name, s in scores.items()} == {"self": (2, 4, 3, 3), "cross": (2, 4, 3, 5)}
    symbolic, symbolic_scores = TransformerBlock(4, 32, cross_attention=True)(
        keras.Input((3, D)), keras.Input((5, D)), return_attention_scores=True
    )
    assert symbolic.shape == (None, *output.shape[1:])
    assert {name: s.shape[1:] for name, s in symbolic_scores.items()} == {"self": (4, 3, 3), "cross": (4, 3, 5)}


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_block_trains_saves_and_loads_in_every_precision(dtype, tmp_path):
    x, context = keras.Input((None, D)), keras.Input((None, D))
    arguments = {
        "causal": True,
        "cross_attention": True,
        "dropout": 0.1,
        "activation": "relu",
        "norm": "pre",
        "seed": 1,
    }
    model = keras.Model([x, context], TransformerBlock(4, 32, dtype=dtype, **arguments)(x, context))
    model.compile("sgd", "mse")
    data = [sequence(4, 3, D), sequence(4, 5, D)]
    history = model.fit(data, sequence(4, 3, D), verbose=0)
    assert np.isfinite(history.history["loss"][0])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(np.asarray(model(data), "float32"), np.asarray(again(data), "float32"), atol=1e-6)
    config = again.layers[-1].get_config()
    assert {name: config[name] for name in arguments} == arguments


def test_dropout_with_a_seed_gives_the_same_result():
    x = sequence(2, 5, D)
    first, second = (TransformerBlock(4, 32, dropout=0.3, seed=11) for _ in range(2))
    first(x), second(x)
    second.set_weights(first.get_weights())
    np.testing.assert_array_equal(first(x, training=True), second(x, training=True))


def test_a_block_attends_with_this_packages_attention():
    block = TransformerBlock(4, 32)
    block.build((None, None, D))
    assert type(block.self_attention) is MultiHeadAttention


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 0, "intermediate_dim": 4}, "Received: num_heads=0"),
        ({"num_heads": 4, "intermediate_dim": -1}, "Received: intermediate_dim=-1"),
        ({"num_heads": 4, "intermediate_dim": 4, "norm": "sandwich"}, "Received: norm='sandwich'"),
        ({"num_heads": 4, "intermediate_dim": 4, "dropout": 2}, "Received: dropout=2"),
    ],
)
def test_arguments_out_of_range_are_refused_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        TransformerBlock(**arguments)


def test_what_cannot_fit_is_refused_with_what_was_received():
    with pytest.raises(ValueError, match="multiple of `num_heads`"):
        TransformerBlock(3, 32)(sequence(1, 4, D))
    with pytest.raises(ValueError, match="needs a `context`"):
        TransformerBlock(4, 32, cross_attention=True)(sequence(1, 4, D))
    with pytest.raises(ValueError, match="if and only if"):
        TransformerBlock(4, 32)(sequence(1, 4, D), sequence(1, 4, D))
