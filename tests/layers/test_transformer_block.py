"""TransformerBlock: its two forms against a plain composition of Keras layers, its options and its errors."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_attention.layers import MultiHeadAttention, TransformerBlock
from keras_attention.layers.keras_mask import get_keras_mask
from tests.backend import assert_close, assert_equal, compiled, difference, to_numpy, value_and_gradients
from tests.backend import traced as in_a_graph

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
            return x + to_numpy(f(layer_norm(x, normalization)))
        return layer_norm(x + to_numpy(f(x)), normalization)

    expected = residual(x, lambda y: block.self_attention(y, y, use_causal_mask=True), block.self_attention_norm)
    expected = residual(expected, lambda y: block.context_attention(y, context), block.context_attention_norm)
    expected = residual(expected, block.feed_forward, block.feed_forward_norm)
    assert_close(got, expected, atol=1e-5)


def test_a_causal_block_does_not_look_ahead():
    block = TransformerBlock(4, 32, causal=True)
    x = sequence(1, 6, D)
    changed = x.copy()
    changed[:, 4:] += 1
    assert_close(block(x)[:, :4], block(changed)[:, :4], atol=1e-6)
    assert difference(block(x)[:, 4:], block(changed)[:, 4:]) > 1e-3


def test_an_attention_mask_and_a_context_mask_hide_what_they_say():
    block = TransformerBlock(4, 32, cross_attention=True)
    x, context = sequence(1, 4, D), sequence(1, 5, D, seed=1)
    mask = np.array([[1, 1, 1, 0, 0]])
    changed = context.copy()
    changed[:, 3:] = 9
    assert_close(block(x, context, context_mask=mask), block(x, changed, context_mask=mask), atol=1e-6)
    only_itself = np.eye(4)[None]
    changed = x.copy()
    changed[:, 3] += 1
    assert_close(
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
        "normalization": "rms",
        "use_bias": False,
        "rematerialize": True,
    }
    model = keras.Model([x, context], TransformerBlock(4, 32, dtype=dtype, **arguments)(x, context))
    model.compile("sgd", "mse")
    data = [sequence(4, 3, D), sequence(4, 5, D)]
    history = model.fit(data, sequence(4, 3, D), verbose=0)
    assert np.isfinite(history.history["loss"][0])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_close(to_numpy(model(data)), to_numpy(again(data)), atol=1e-6)
    config = again.layers[-1].get_config()
    assert {name: config[name] for name in arguments} == arguments


def test_dropout_with_a_seed_gives_the_same_result():
    x = sequence(2, 5, D)
    first, second = (TransformerBlock(4, 32, dropout=0.3, seed=11) for _ in range(2))
    first(x), second(x)
    second.set_weights(first.get_weights())
    assert_equal(first(x, training=True), second(x, training=True))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_block_with_rms_normalisation_is_its_parts(norm):
    block = TransformerBlock(4, 32, norm=norm, normalization="rms", layer_norm_epsilon=1e-3)
    x = sequence(2, 5, D)
    block(x)
    for i, layer in enumerate([block.self_attention_norm, block.feed_forward_norm]):
        layer.scale.assign(sequence(D, seed=i))

    def rms_norm(x, normalization):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * normalization.scale.numpy()

    def residual(x, f, normalization):
        if norm == "pre":
            return x + to_numpy(f(rms_norm(x, normalization)))
        return rms_norm(x + to_numpy(f(x)), normalization)

    expected = residual(x, lambda y: block.self_attention(y, y), block.self_attention_norm)
    expected = residual(expected, block.feed_forward, block.feed_forward_norm)
    assert_close(block(x), expected, atol=1e-5)


@pytest.mark.parametrize("normalization", ["layer", "rms"])
def test_the_norms_compute_in_float32_in_half_precision_and_keep_the_mask(normalization):
    ids = np.array([[1, 2, 0]])
    block = TransformerBlock(4, 32, normalization=normalization, dtype="mixed_float16")
    embedded = keras.layers.Embedding(9, D, mask_zero=True, embeddings_initializer="normal")(ids)
    assert_equal(get_keras_mask(block(embedded)), ids != 0)
    assert_equal(get_keras_mask(block.feed_forward_norm(embedded)), ids != 0)
    large = 1000 * sequence(1, 3, D)  # its square is no float16
    expected = TransformerBlock(4, 32, normalization=normalization)
    expected.build((None, None, D))
    assert_close(to_numpy(block.feed_forward_norm(large)), expected.feed_forward_norm(large), atol=2e-3)


def test_without_biases_a_block_has_kernels_and_norms_only():
    block = TransformerBlock(4, 32, cross_attention=True, normalization="rms", activation="swiglu", use_bias=False)
    block(sequence(2, 3, D), sequence(2, 4, D))
    assert {weight.name for weight in block.weights} == {"kernel", "scale"}


def step(block, arguments, traced, jit_compile):
    """The loss of one step in training and its gradients by the inputs and the weights."""

    def loss(*arguments):
        return ops.sum(ops.sin(block(*arguments, training=True)))

    def run(*arguments):
        return value_and_gradients(loss, arguments, block.trainable_weights)

    run = (compiled if jit_compile else in_a_graph)(run) if traced else run
    return run(*[ops.convert_to_tensor(x) for x in arguments])


@pytest.mark.parametrize(
    ("cross_attention", "traced", "jit_compile"),
    [(False, False, False), (False, True, False), (True, False, False), (True, True, False), (False, True, True)],
    ids=["self eager", "self traced", "cross eager", "cross traced", "self XLA"],
)
def test_rematerialising_changes_neither_the_result_nor_the_gradients_with_dropout(
    cross_attention, traced, jit_compile
):
    arguments = [sequence(2, 5, D), sequence(2, 7, D, seed=1)][: 1 + cross_attention]
    options = {"causal": True, "cross_attention": cross_attention, "dropout": 0.3, "seed": 5}
    plain, recomputed = (TransformerBlock(4, 32, rematerialize=value, **options) for value in (False, True))
    plain(*arguments), recomputed(*arguments)
    recomputed.set_weights(plain.get_weights())
    loss, gradients = step(plain, arguments, traced, jit_compile)
    again_loss, again_gradients = step(recomputed, arguments, traced, jit_compile)
    assert_close(loss, again_loss, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients, again_gradients, strict=True):
        assert_close(a, b, atol=1e-5)
    if keras.backend.backend() != "jax":  # there a step leaves no state behind
        third_loss, _ = step(recomputed, arguments, traced, jit_compile)
        assert difference(third_loss, again_loss) > 1e-3  # another step, another dropout


def test_rematerialising_computes_the_block_again_in_fit_and_learns_the_same(monkeypatch):
    calls = []
    forward = TransformerBlock._forward
    monkeypatch.setattr(
        TransformerBlock, "_forward", lambda self, *args, **kw: calls.append(self) or forward(self, *args, **kw)
    )

    def trained(rematerialize):
        keras.utils.set_random_seed(0)
        ids = keras.Input((None,), dtype="int32")
        x = keras.layers.Embedding(9, D, mask_zero=True)(ids)
        for _ in range(2):
            x = TransformerBlock(4, 32, dropout=0.2, seed=2, rematerialize=rematerialize)(x)
        model = keras.Model(ids, x)
        model.compile("sgd", "mse", jit_compile=False)
        calls.clear()
        model.fit(np.array([[1, 2, 3], [4, 5, 0]]), np.ones((2, 3, D)), verbose=0)
        return [weight.numpy() for weight in model.trainable_weights], len(calls)

    (plain, once), (recomputed, twice) = trained(False), trained(True)
    if keras.backend.backend() == "tensorflow":
        assert twice == 2 * once
    elif keras.backend.backend() == "torch":
        assert twice == once + 2  # both count the symbolic calls that come before the step, too
    for a, b in zip(plain, recomputed, strict=True):
        assert_close(a, b, atol=1e-6)


def test_rematerialising_returns_scores_and_trains_in_half_precision():
    block = TransformerBlock(4, 32, rematerialize=True, dropout=0.1, dtype="mixed_bfloat16")
    output, scores = block(sequence(2, 3, D), return_attention_scores=True, training=True)
    assert output.shape == (2, 3, D)
    assert scores["self"].shape == (2, 4, 3, 3)
    loss, gradients = step(block, [sequence(2, 3, D)], traced=True, jit_compile=False)
    assert all(np.all(np.isfinite(to_numpy(x))) for x in [loss, *gradients])


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
        ({"num_heads": 4, "intermediate_dim": 4, "normalization": "batch"}, "Received: normalization='batch'"),
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
