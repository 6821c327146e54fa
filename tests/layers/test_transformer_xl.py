"""Transformer-XL: the published score, and segments with a memory that give what the whole text gives."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_attention.layers import MultiHeadAttention, TransformerXL, TransformerXLPosition
from keras_attention.layers.keras_mask import get_keras_mask, set_keras_mask
from tests.backend import assert_close, tensorflow_only, to_numpy, value_and_gradients

B, T, D, N, H = 2, 12, 8, 2, 4
X = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")


def sinusoid(distance, size):
    exponents = 10_000.0 ** (-np.arange(0, size, 2) / size)
    return np.stack([np.sin(distance * exponents), np.cos(distance * exponents)], -1).reshape(-1)


def test_the_scores_are_those_of_the_paper():
    layer = MultiHeadAttention(N, H, position=TransformerXLPosition(encoding_dim=6), use_bias=False)
    layer.build(X.shape, X.shape)
    rng = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(size=weight.shape) * 0.4)
    _, got = layer(X, X, return_attention_scores=True)

    query, key = (
        np.einsum("btd,dnh->btnh", X, to_numpy(dense.kernel)) for dense in (layer.query_dense, layer.key_dense)
    )
    position = layer.position
    u, v = to_numpy(position.content_bias), to_numpy(position.position_bias)
    scores = np.zeros((B, N, T, T))
    for t, s in np.ndindex(T, T):
        relative = (sinusoid(t - s, 6) @ to_numpy(position.kernel)).reshape(N, H)
        products = (query[:, t] + u) * key[:, s] + (query[:, t] + v) * relative
        scores[:, :, t, s] = products.sum(-1) / np.sqrt(H)
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    assert_close(got, exponentials / exponentials.sum(-1, keepdims=True), atol=1e-5)


def make(**arguments):
    keras.utils.set_random_seed(3)
    layer = TransformerXL(num_layers=2, num_heads=N, intermediate_dim=16, **{"memory_length": T, **arguments})
    layer.build(X.shape)
    rng = np.random.default_rng(2)
    for weight in layer.trainable_weights:
        weight.assign(to_numpy(weight) + 0.2 * rng.normal(size=weight.shape))
    return layer


def in_segments(layer, x, cuts, mask=None):
    memory, outputs = layer.make_memory(B), []
    for start, stop in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        segment = ops.convert_to_tensor(x[:, start:stop])
        if mask is not None:
            set_keras_mask(segment, ops.convert_to_tensor(mask[:, start:stop]))
        output, memory = layer(segment, memory=memory)
        outputs.append(to_numpy(output))
    return np.concatenate(outputs, axis=1), memory


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("cuts", [[6], [4, 8], [1, 2, 3], [11]])
def test_segments_with_a_long_memory_give_what_the_whole_text_gives(norm, cuts):
    layer = make(norm=norm)
    assert_close(in_segments(layer, X, cuts)[0], layer(X), atol=2e-5)


def test_padding_in_a_segment_is_remembered_as_padding():
    layer = make(norm="pre")
    mask = np.ones((B, T), bool)
    mask[1, 3:6] = False
    got, memory = in_segments(layer, X, [6, 9], mask)
    other = X.copy()
    other[1, 3:6] = 100.0  # what stands at padding changes nothing
    assert_close(in_segments(layer, other, [6, 9], mask)[0][mask], got[mask], atol=2e-5)
    assert np.array_equal(to_numpy(memory.valid), mask)


def test_the_memory_ends_where_it_ends():
    layer = make(memory_length=3)
    other = X.copy()
    other[:, 0] += 10.0
    # Two blocks reach 3 positions back each: what comes 7 positions later does not know of the change any more.
    got, changed = (in_segments(layer, x, list(range(1, T)))[0] for x in (X, other))
    assert np.abs(changed - got)[:, :7].max(axis=(0, 2)).min() > 1e-6
    assert_close(changed[:, 7:], got[:, 7:], atol=1e-6)


def test_no_gradient_flows_into_the_memory():
    layer = make()

    def loss(states, x):
        memory = layer.make_memory(B)
        memory = memory._replace(states=(states, *memory.states[1:]), valid=ops.ones((B, T), "bool"))
        return ops.sum(ops.sin(layer(x, memory=memory)[0]))

    _, (of_states, of_x) = value_and_gradients(loss, [X, X[:, :4]])
    assert of_states is None or np.all(to_numpy(of_states) == 0)
    assert np.any(to_numpy(of_x) != 0)


def test_scores_reach_over_the_memory_and_the_output_carries_the_mask():
    layer = make(memory_length=5)
    x = ops.convert_to_tensor(X[:, :4])
    set_keras_mask(x, ops.ones((B, 4), "bool"))
    output, scores, _ = layer(x, memory=layer.make_memory(B), return_attention_scores=True)
    assert [tuple(block["self"].shape) for block in scores] == [(B, N, 4, 9)] * 2
    assert get_keras_mask(output) is not None


@tensorflow_only("auto takes tiles on it")
def test_positions_in_tiles_with_their_gradients_equal_the_dense_ones(monkeypatch):
    import tensorflow as tf

    from keras_attention.ops import attention, chunked_tile

    layer = make()

    def run(limit):
        monkeypatch.setattr(attention, "_CHUNK_FROM", limit)
        monkeypatch.setattr(attention, "_SHORT", 0)
        monkeypatch.setattr(chunked_tile, "TILE_ELEMENTS", 100)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(layer(X)))
        return [loss, *tape.gradient(loss, [weight.value for weight in layer.trainable_weights])]

    for got, expected in zip(run(0), run(10**9), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5)


def test_it_is_saved_and_loaded(tmp_path):
    layer = make(norm="pre", attention_options={"num_kv_heads": 1})
    inputs = keras.Input((T, D))
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_close(loaded(X), model(X), atol=1e-6)
    assert loaded.layers[-1].memory_length == T
    assert loaded.layers[-1].get_config() == layer.get_config()


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="Received: memory_length=0"):
        make(memory_length=0)
    with pytest.raises(ValueError, match="Received: encoding_dim=5"):
        TransformerXLPosition(encoding_dim=5)
    with pytest.raises(ValueError, match="must be built before it makes a memory"):
        TransformerXL(1, N, 8, memory_length=2).make_memory(1)
    with pytest.raises(ValueError, match="Received: attention_options with 'heads'"):
        make(attention_options={"heads": 2})
