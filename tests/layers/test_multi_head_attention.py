"""MultiHeadAttention against Keras's own layer with the same weights, and what it does beyond it."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_attention.biases import ALiBi
from keras_attention.layers import MultiHeadAttention, RelativePositionBias, RotaryPosition
from keras_attention.layers.keras_mask import get_keras_mask
from keras_attention.masks import Causal, SlidingWindow
from keras_attention.ops import attention
from tests.backend import assert_close, assert_equal, difference, tensorflow_only, to_numpy, value_and_gradients

B, T, S, D = 2, 5, 7, 12
RNG = np.random.default_rng(0)


def sequence(*shape):
    return RNG.normal(size=shape).astype("float32")


def pair(query, value, key=None, **arguments):
    """Keras's layer and ours with the same weights."""
    theirs = keras.layers.MultiHeadAttention(3, 4, **arguments)
    ours = MultiHeadAttention(3, 4, **arguments)
    theirs(query, value, key)
    ours(query, value, key)
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    for weight in theirs.weights:  # biases that are not zero
        weight.assign(RNG.normal(scale=0.5, size=weight.shape))
    ours.set_weights(theirs.get_weights())
    return theirs, ours


def outputs_and_gradients(layer, query, value, key, **call):
    def loss(*sources):
        output, scores = layer(*sources, return_attention_scores=True, **call)
        return ops.sum(ops.sin(output)) + ops.sum(ops.square(scores)), output, scores

    sources = [x for x in (query, value, key) if x is not None]
    (_, output, scores), gradients = value_and_gradients(loss, sources, layer.trainable_weights)
    return output, scores, gradients


def assert_same(theirs, ours, query, value, key=None, **call):
    expected = outputs_and_gradients(theirs, query, value, key, **call)
    got = outputs_and_gradients(ours, query, value, key, **call)
    assert_close(got[0], expected[0], atol=1e-5)
    assert_close(got[1], expected[1], atol=1e-5)
    tolerance = 1e-5 if keras.backend.backend() == "tensorflow" else 3e-5  # others sum in another order
    for a, b in zip(got[2], expected[2], strict=True):
        assert_close(a, b, atol=tolerance * max(1.0, float(np.abs(to_numpy(b)).max())))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"value_dim": 6},
        {"use_bias": False},
        {"output_shape": 9},
        {"output_shape": (3, 5)},
        {"use_gate": True},
        {"use_gate": True, "value_dim": 6, "use_bias": False},
        {"sliding_window": 2},
        {"dropout": 0.4},
        {"attention_axes": 1},
        {"attention_axes": (-2,)},
        {"kernel_initializer": "he_normal", "bias_initializer": "ones"},
    ],
    ids=str,
)
@pytest.mark.parametrize("with_key", [False, True], ids=["value as key", "own key"])
def test_outputs_scores_and_gradients_equal_keras_for_every_argument(arguments, with_key):
    if "value_dim" in arguments and keras.backend.backend() == "jax":
        pytest.skip("Keras's own layer fails on JAX where value_dim is not key_dim")
    query, value = sequence(B, T, D), sequence(B, S, 10)
    key = sequence(B, S, 8) if with_key else None
    theirs, ours = pair(query, value, key, **arguments)
    assert_same(theirs, ours, query, value, key)


def _mask(*shape):
    mask = RNG.random(shape) < 0.6
    mask[..., 0] = True  # Keras is right where each query has a key
    return mask


@pytest.mark.parametrize(
    "call",
    [
        {"use_causal_mask": True},
        {"attention_mask": _mask(B, T, S)},
        {"attention_mask": _mask(1, T, S)},
        {"attention_mask": _mask(B, 1, S)},
        {"attention_mask": _mask(B, 3, T, S)},
        {"attention_mask": _mask(B, T, S).astype("int32")},
        {"attention_mask": _mask(B, T, S).astype("float32"), "use_causal_mask": True},
        {"value_mask": _mask(B, S)},
        {"value_mask": _mask(B, S), "key_mask": _mask(B, S), "use_causal_mask": True},
    ],
    ids=lambda call: " ".join(f"{k} {getattr(v, 'shape', '')}" for k, v in call.items()),
)
def test_outputs_scores_and_gradients_equal_keras_for_every_mask(call):
    query, value = sequence(B, T, D), sequence(B, S, D)
    theirs, ours = pair(query, value)
    assert_same(theirs, ours, query, value, **call)


def test_the_path_without_scores_equals_keras_too():
    query, value = sequence(B, T, D), sequence(B, S, D)
    theirs, ours = pair(query, value)
    assert_close(ours(query, value), theirs(query, value), atol=1e-5)
    assert_close(ours(query, value, use_causal_mask=True), theirs(query, value, use_causal_mask=True), atol=1e-5)


@pytest.mark.parametrize("axes", [(1, 2), (2,), (-3,), 1], ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_attention_over_other_axes_equals_keras(axes, masked):
    query, value = sequence(B, 3, T, D), sequence(B, 3, T, D)
    theirs, ours = pair(query, value, attention_axes=axes)
    attended = [(0, 3, T)[axis % 4] for axis in np.atleast_1d(axes)]
    call = {"attention_mask": _mask(B, *attended, *attended)} if masked else {}
    assert_same(theirs, ours, query, value, **call)


def test_images_are_attended_over_all_their_positions_with_masks():
    x = sequence(B, 3, T, D)
    valid = RNG.random((B, 3, T)) < 0.7
    layer = MultiHeadAttention(3, 4)
    kept = layer(x, x, value_mask=valid)
    changed = layer(x, np.where(valid[..., None], x, 99.0).astype("float32"), value_mask=valid)
    assert_close(kept, changed, atol=1e-5)


def test_the_masks_of_the_inputs_are_left_alone_and_the_output_carries_the_querys():
    ids = np.array([[1, 2, 3, 0]])
    x = keras.layers.Embedding(9, D, mask_zero=True)(ids)
    layer = MultiHeadAttention(3, 4)
    y = layer(x, x)
    assert_equal(get_keras_mask(x), ids != 0)
    assert_equal(get_keras_mask(y), ids != 0)
    z, scores = layer(y, x, return_attention_scores=True)
    assert_equal(get_keras_mask(z), ids != 0)
    assert np.all(to_numpy(scores)[:, :, :3, 3] == 0)


def test_an_explicit_query_mask_is_used_and_carried():
    x = sequence(1, 4, D)
    explicit = np.array([[True, True, False, False]])
    output, scores = MultiHeadAttention(3, 4)(x, x, query_mask=explicit, return_attention_scores=True)
    assert_equal(get_keras_mask(output), explicit)
    assert np.all(to_numpy(scores)[:, :, 2:] == 0)
    carried = keras.layers.Masking()(np.where(np.array([1, 1, 1, 0])[None, :, None], x, 0.0))
    output = MultiHeadAttention(3, 4)(carried, carried, query_mask=explicit)
    assert_equal(get_keras_mask(output), explicit)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_query_without_any_key_gives_zero_scores_with_and_without_dropout(dropout, dtype):
    x = sequence(1, 4, D)
    layer = MultiHeadAttention(3, 4, dropout=dropout, use_bias=False, dtype=dtype)
    nothing = np.ones((1, 4, 4), bool)
    nothing[:, 1] = False
    output, scores = layer(x, x, attention_mask=nothing, return_attention_scores=True, training=False)
    assert np.all(to_numpy(scores)[:, :, 1] == 0)
    assert np.all(to_numpy(output)[:, 1] == 0)
    assert np.all(np.isfinite(to_numpy(output)))


def test_static_specifications_compose_with_tensors():
    x = sequence(B, T, D)
    layer = MultiHeadAttention(3, 4)
    mask = _mask(B, T, T)
    specified = layer(x, x, mask=Causal() & SlidingWindow(3), attention_mask=mask)
    band = np.tril(np.abs(np.subtract.outer(np.arange(T), np.arange(T))) < 3)
    assert_close(specified, layer(x, x, attention_mask=mask & band), atol=1e-6)


def test_a_bias_is_added_to_the_scores():
    x = sequence(B, T, D)
    layer = MultiHeadAttention(3, 4)
    bias = np.zeros((1, 1, T, T), "float32")
    bias[..., 2] = 1e4
    _, scores = layer(x, x, bias=bias, return_attention_scores=True)
    assert_close(to_numpy(scores)[..., 2], 1, atol=1e-6)


def test_symbolic_shapes_are_the_real_ones_for_cross_attention():
    query, value = keras.Input((T, D)), keras.Input((S, D))
    output, scores = MultiHeadAttention(3, 4, output_shape=6)(query, value, return_attention_scores=True)
    assert output.shape == (None, T, 6)
    assert scores.shape == (None, 3, T, S)
    model = keras.Model([query, value], [output, scores])
    real_output, real_scores = model([sequence(B, T, D), sequence(B, S, D)])
    assert real_output.shape == (B, T, 6)
    assert real_scores.shape == (B, 3, T, S)


def test_dropout_is_repeatable_with_a_seed_and_off_in_inference():
    x = sequence(B, T, D)
    first, second = (MultiHeadAttention(3, 4, dropout=0.5, seed=3) for _ in range(2))
    first(x, x), second(x, x)
    second.set_weights(first.get_weights())
    a, b = first(x, x, training=True), second(x, x, training=True)
    assert_equal(a, b)
    assert difference(a, first(x, x)) > 1e-3
    assert_equal(first(x, x), second(x, x))


def test_a_model_with_the_layer_trains_saves_and_loads(tmp_path):
    x = keras.Input((None, D))
    arguments = {
        "value_dim": 6,
        "output_shape": 5,
        "dropout": 0.1,
        "sliding_window": 3,
        "use_gate": True,
        "kernel_regularizer": "l2",
        "attention_axes": 1,
    }
    model = keras.Model(x, MultiHeadAttention(3, 4, **arguments)(x, x, use_causal_mask=True))
    model.compile("adam", "mse")
    before = [w.numpy() for w in model.trainable_weights]
    model.fit(sequence(8, T, D), sequence(8, T, 5), verbose=0)
    assert all(np.any(a != b.numpy()) for a, b in zip(before, model.trainable_weights, strict=True))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    sample = sequence(B, T, D)
    assert_close(model(sample), again(sample), atol=1e-6)
    layer = again.layers[-1]
    assert {name: getattr(layer, name) for name in arguments if name not in ("kernel_regularizer", "output_shape")} == {
        name: value if name != "attention_axes" else layer.attention_axes
        for name, value in arguments.items()
        if name not in ("kernel_regularizer", "output_shape")
    }


def test_heads_that_share_keys_equal_plain_heads_with_the_keys_repeated():
    x = sequence(B, T, D)
    grouped, plain = MultiHeadAttention(4, 3, num_kv_heads=2), MultiHeadAttention(4, 3)
    grouped(x, x), plain(x, x)
    assert grouped.key_dense.kernel.shape == (D, 2, 3)
    repeated = [
        np.repeat(w, 2, axis=-2) if "key/" in v.path or "value/" in v.path else w
        for w, v in zip(grouped.get_weights(), grouped.weights, strict=True)
    ]
    plain.set_weights(repeated)
    for got, expected in zip(
        grouped(x, x, use_causal_mask=True, return_attention_scores=True),
        plain(x, x, use_causal_mask=True, return_attention_scores=True),
        strict=True,
    ):
        assert_close(got, expected, atol=1e-6)


def test_a_soft_cap_bounds_the_scores():
    x = 50 * sequence(1, T, D)
    _, scores = MultiHeadAttention(2, 4, attn_logits_soft_cap=1.0)(x, x, return_attention_scores=True)
    scores = to_numpy(scores)
    assert np.max(scores.max(-1) / scores.min(-1)) <= np.exp(2.0) * 1.001


POSITIONS = {
    "rotary": lambda: RotaryPosition(),
    "yarn": lambda: RotaryPosition(scaling="yarn", factor=4.0, original_length=32),
    "alibi": lambda: ALiBi(2),
    "relative": lambda: RelativePositionBias(2, embeddings_initializer="random_normal"),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_a_position_makes_the_order_count_and_only_the_distance(name, tmp_path):
    x = keras.Input((None, D))
    layer = MultiHeadAttention(2, 4, position=POSITIONS[name]())
    model = keras.Model(x, layer(x, x, use_causal_mask=True))
    tokens = sequence(1, 6, D)
    swapped = tokens[:, [1, 0, 2, 3, 4, 5]]
    assert difference(model(tokens)[:, 5], model(swapped)[:, 5]) > 1e-4
    # Three tokens that may see one another only, early and late in the sequence.
    late = np.concatenate([tokens[:, 3:], tokens[:, :3]], axis=1)
    blocks = np.kron(np.eye(2), np.ones((3, 3)))[None]
    early_states = layer(tokens, tokens, attention_mask=blocks)[:, :3]
    late_states = layer(late, late, attention_mask=blocks)[:, 3:]
    assert_close(early_states, late_states, atol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_close(again(tokens), model(tokens), atol=1e-6)


@tensorflow_only("the tiles are")
@pytest.mark.parametrize("name", POSITIONS)
def test_a_position_in_tiles_equals_the_dense_one_with_its_gradients(name, monkeypatch):
    x = sequence(2, 9, D)
    layer = MultiHeadAttention(2, 4, position=POSITIONS[name](), num_kv_heads=1)
    layer(x, x)
    bias = np.random.default_rng(1).normal(size=(1, 2, 9, 9)).astype("float32")

    from keras_attention.ops import chunked_tile

    def run(limit):
        monkeypatch.setattr(attention, "_CHUNK_FROM", limit)
        monkeypatch.setattr(attention, "_SHORT", 0)
        monkeypatch.setattr(chunked_tile, "TILE_ELEMENTS", 100)
        loss, gradients = value_and_gradients(
            lambda: ops.sum(ops.sin(layer(x, x, use_causal_mask=True, bias=bias))), [], layer.trainable_weights
        )
        return [loss, *gradients]

    for got, expected in zip(run(0), run(10**9), strict=True):
        assert_close(got, expected, atol=2e-5)


def test_masks_and_biases_of_other_lengths_are_refused():
    x = sequence(1, 4, D)
    layer = MultiHeadAttention(2, 4)
    for call in ({"value_mask": np.ones((1, 7))}, {"query_mask": np.ones((1, 3))}):
        with pytest.raises(ValueError, match=r"must fit 4 positions\. Received: shape"):
            layer(x, x, **call)
    for call in ({"attention_mask": np.ones((9, 9))}, {"bias": np.ones((1, 1, 4, 5), "float32")}):
        with pytest.raises(ValueError, match=r"must fit 4 (keys|queries). Received: shape"):
            layer(x, x, **call)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 4, "key_dim": 4, "num_kv_heads": 3}, "Received: num_kv_heads=3, num_heads=4"),
        ({"num_heads": 4, "key_dim": 4, "attn_logits_soft_cap": 0}, "Received: attn_logits_soft_cap=0"),
        ({"num_heads": 4, "key_dim": 4, "position": ALiBi(2)}, "Received: position.num_heads=2 with num_heads=4"),
        ({"num_heads": 4, "key_dim": 4, "position": "rotary"}, "Received: position='rotary'"),
        ({"num_heads": 0, "key_dim": 4}, "`num_heads` must be a positive integer. Received: num_heads=0"),
        ({"num_heads": 2, "key_dim": -1}, "Received: key_dim=-1"),
        ({"num_heads": 2, "key_dim": 4, "value_dim": 0}, "Received: value_dim=0"),
        ({"num_heads": 2, "key_dim": 4, "dropout": 1.0}, "Received: dropout=1.0"),
        ({"num_heads": 2, "key_dim": 4, "sliding_window": 0}, "Received: size=0"),
        ({"num_heads": 2, "key_dim": 4, "flash_attention": True}, "Received: flash_attention=True"),
    ],
)
def test_arguments_out_of_range_are_refused_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**arguments)


def test_shapes_that_do_not_fit_are_refused_with_what_was_received():
    with pytest.raises(ValueError, match=r"key of shape \(2, 6, 12\)"):
        MultiHeadAttention(3, 4)(sequence(B, T, D), sequence(B, S, D), sequence(B, 6, D))
    with pytest.raises(ValueError, match="attention_axes=\\(0,\\)"):
        MultiHeadAttention(3, 4, attention_axes=0)(sequence(B, T, D), sequence(B, S, D))
