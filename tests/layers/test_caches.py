"""Caches: step by step gives what the whole sequence at once gives, for every option; and what cannot be is refused."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_attention import biases
from keras_attention.layers import (
    MultiHeadAttention,
    RelativePositionBias,
    RotaryPosition,
    TransformerBlock,
    TransformerDecoder,
    TransformerXLPosition,
)
from keras_attention.layers.caches import KeyValueCache, RollingCache
from keras_attention.masks import PrefixLM
from tests.backend import assert_close, tensorflow_only, to_numpy, traced

B, T, D, N, H = 3, 11, 12, 4, 4
X = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")
CONTEXT = np.random.default_rng(1).normal(size=(B, 6, 5)).astype("float32")
LEFT_PADDED = np.arange(T)[None] >= [[0], [3], [6]]

OPTIONS = {
    "plain": dict,
    "gate": lambda: {"use_gate": True, "value_dim": 3},
    "grouped heads": lambda: {"num_kv_heads": 2},
    "multi-query": lambda: {"num_kv_heads": 1},
    "window": lambda: {"sliding_window": 4},
    "window in blocks": lambda: {"sliding_window": 4, "implementation": "windowed"},
    "window of one": lambda: {"sliding_window": 1},
    "window longer than the text": lambda: {"sliding_window": 40},
    "rotary": lambda: {"position": RotaryPosition()},
    "yarn": lambda: {"position": RotaryPosition(scaling="yarn", factor=4.0, original_length=8)},
    "rotary window": lambda: {"position": RotaryPosition(), "sliding_window": 4, "num_kv_heads": 2},
    "relative": lambda: {"position": RelativePositionBias(N, num_buckets=8, max_distance=10, bidirectional=False)},
    "relative window": lambda: {
        "position": RelativePositionBias(N, num_buckets=8, max_distance=10),
        "sliding_window": 5,
    },
    "alibi": lambda: {"position": biases.ALiBi(N)},
    "alibi window": lambda: {"position": biases.ALiBi(N), "sliding_window": 4},
    "transformer-xl": lambda: {"position": TransformerXLPosition()},
    "transformer-xl window": lambda: {"position": TransformerXLPosition(), "sliding_window": 4},
    "soft cap": lambda: {"attn_logits_soft_cap": 1.5},
    "sinks": lambda: {"attention_sinks": True},
    "qk norm": lambda: {"qk_norm": True},
    "cosine": lambda: {"score": "cosine"},
    "dot": lambda: {"score": "dot"},
    "general": lambda: {"score": "general"},
    "additive": lambda: {"score": "additive"},
}


def make(name, **more):
    keras.utils.set_random_seed(5)
    layer = MultiHeadAttention(N, H, **OPTIONS[name](), **more)
    layer.build(X.shape, X.shape)
    rng = np.random.default_rng(2)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(size=weight.shape) * 0.5)
    return layer


def in_steps(layer, x, cuts, cache, mask=None, call=None):
    outputs, start = [], 0
    for stop in [*cuts, x.shape[1]]:
        piece = x[:, start:stop]
        own = {} if mask is None else {"value_mask": mask[:, start:stop], "query_mask": mask[:, start:stop]}
        output, cache = layer(piece, piece, cache=cache, use_causal_mask=True, **own, **(call or {}))
        outputs.append(to_numpy(output))
        start = stop
    return np.concatenate(outputs, axis=1), cache


@pytest.mark.parametrize("padded", [False, True], ids=["no padding", "left padding"])
@pytest.mark.parametrize("name", OPTIONS)
def test_step_by_step_equals_the_whole_at_once(name, padded):
    layer = make(name)
    mask = LEFT_PADDED if padded else None
    own = {} if mask is None else {"value_mask": mask, "query_mask": mask}
    expected = to_numpy(layer(X, X, use_causal_mask=True, **own))
    for cuts in ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [5, 6, 9], []):
        got, _ = in_steps(layer, X, cuts, layer.make_cache(B, T + 2), mask)
        assert_close(got, expected, atol=2e-5)


@settings(max_examples=20, deadline=None)
@given(window=st.integers(1, 12), cuts=st.sets(st.integers(1, T - 1)), room=st.integers(0, 5))
def test_any_window_in_any_steps_equals_the_whole_at_once(window, cuts, room):
    keras.utils.set_random_seed(5)
    layer = MultiHeadAttention(N, H, sliding_window=window, position=biases.ALiBi(N))
    expected = layer(X, X, use_causal_mask=True)
    got, _ = in_steps(layer, X, sorted(cuts), layer.make_cache(B, T + room))
    assert_close(got, expected, atol=2e-5)


def test_only_a_window_that_is_shorter_than_the_text_rolls_and_takes_its_own_room():
    layer = make("window")
    assert isinstance(layer.make_cache(B, 4), KeyValueCache)
    cache = layer.make_cache(B, 1000)
    assert isinstance(cache, RollingCache)
    assert cache.key.shape == (B, 3, N, H)


def test_a_step_is_traced_once_and_lives_in_a_loop():
    layer = make("rotary window")
    expected = to_numpy(layer(X, X, use_causal_mask=True))

    def run(x):
        def step(t, outputs, cache):
            piece = ops.slice(x, (0, t, 0), (B, 1, D))
            output, cache = layer(piece, piece, use_causal_mask=True, cache=cache)
            return t + 1, ops.slice_update(outputs, (0, t, 0), output), cache

        state = (ops.zeros((), "int32"), ops.zeros((B, T, D)), layer.make_cache(B, T))
        return ops.while_loop(lambda t, *_: t < T, step, state)[1]

    assert_close(traced(run)(ops.convert_to_tensor(X)), expected, atol=2e-5)


@pytest.mark.parametrize("name", ["plain", "window"])
def test_a_reordered_cache_goes_on_with_the_examples_asked_for(name):
    layer = make(name)
    order = np.array([2, 0, 0])
    _, cache = in_steps(layer, X[:, :7], [3], layer.make_cache(B, T))
    got, _ = layer(X[:, 7:8], X[:, 7:8], use_causal_mask=True, cache=cache.reorder(order))
    mixed = np.concatenate([X[order, :7], X[:, 7:8]], axis=1)
    assert_close(got[:, 0], layer(mixed, mixed, use_causal_mask=True)[:, -1], atol=2e-5)


@pytest.mark.parametrize("name", ["plain", "rotary", "additive", "grouped heads"])
def test_a_context_is_projected_once_and_attended_to_at_every_step(name):
    keras.utils.set_random_seed(5)
    layer = MultiHeadAttention(N, H, **OPTIONS[name]())
    mask = np.arange(6)[None] < [[6], [2], [4]]
    expected = to_numpy(layer(X, CONTEXT, value_mask=mask))
    cache = layer.make_context_cache(CONTEXT, value_mask=mask)
    outputs = []
    for start, stop in ((0, 1), (1, 5), (5, T)):
        output, cache = layer(X[:, start:stop], None, cache=cache)
        outputs.append(to_numpy(output))
    assert_close(np.concatenate(outputs, axis=1), expected, atol=2e-5)


def test_masks_and_biases_of_a_step_are_over_the_room_of_the_cache():
    layer, room = make("alibi"), T + 3
    rng = np.random.default_rng(4)
    allowed, bias = rng.random((B, T, room)) < 0.6, rng.normal(size=(B, 1, T, room)).astype("float32")
    prefix = PrefixLM(3)
    expected = layer(X, X, attention_mask=allowed[..., :T], bias=bias[..., :T], mask=prefix)
    cache, outputs = layer.make_cache(B, room), []
    for start, stop in ((0, 4), (4, 5), (5, T)):
        piece = X[:, start:stop]
        output, cache = layer(
            piece, piece, attention_mask=allowed[:, start:stop], bias=bias[:, :, start:stop], mask=prefix, cache=cache
        )
        outputs.append(to_numpy(output))
    assert_close(np.concatenate(outputs, axis=1), expected, atol=2e-5)


def test_scores_of_a_step_are_those_of_the_whole():
    layer = make("sinks")
    _, scores = layer(X, X, use_causal_mask=True, return_attention_scores=True)
    _, cache = in_steps(layer, X[:, :8], [], layer.make_cache(B, T))
    piece = X[:, 8:]
    _, own, top, cache = layer(
        piece, piece, use_causal_mask=True, return_attention_scores=True, top_scores=2, cache=cache
    )
    assert_close(own, scores[:, :, 8:], atol=2e-5)
    assert_close(top.weights, -np.sort(-to_numpy(own), axis=-1)[..., :2], atol=1e-6)


def test_a_cache_in_half_precision_stays_in_it():
    layer = make("rotary", dtype="mixed_bfloat16")
    cache = layer.make_cache(B, T)
    got, cache = in_steps(layer, X, [4, 5], cache)
    assert "bfloat16" in str(cache.key.dtype)
    assert_close(got, layer(X, X, use_causal_mask=True), atol=0.1)


@tensorflow_only("auto takes tiles on it")
def test_a_long_prompt_into_a_cache_is_computed_in_tiles(monkeypatch):
    from keras_attention.ops import attention, chunked_tile

    for name in ("rotary", "relative", "transformer-xl", "alibi window"):
        layer = make(name)
        expected = to_numpy(layer(X, X, use_causal_mask=True))
        with monkeypatch.context() as small:
            small.setattr(attention, "_CHUNK_FROM", 0)
            small.setattr(attention, "_SHORT", 0)
            small.setattr(chunked_tile, "TILE_ELEMENTS", 100)
            got, _ = in_steps(layer, X, [7, 8], layer.make_cache(B, T))
        assert_close(got, expected, atol=2e-5)


BLOCKS = {
    "post": {},
    "pre rms swiglu": {"norm": "pre", "normalization": "rms", "activation": "swiglu"},
    "options": {"attention_options": {"num_kv_heads": 2, "sliding_window": 4, "qk_norm": True}},
}


@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_and_stacks_step_by_step_equal_the_whole(name, cross):
    keras.utils.set_random_seed(6)
    arguments = {"num_heads": N, "intermediate_dim": 20, "cross_attention": cross, **BLOCKS[name]}
    context = {"context": CONTEXT, "context_mask": np.arange(6)[None] < [[6], [2], [4]]} if cross else {}
    for layer in (TransformerBlock(causal=True, **arguments), TransformerDecoder(num_layers=2, **arguments)):
        expected = layer(X, **context)
        cache, outputs = layer.make_cache(B, T, **context), []
        for start, stop in ((0, 3), (3, 4), (4, T)):
            output, cache = layer(X[:, start:stop], cache=cache)
            outputs.append(to_numpy(output))
        assert_close(np.concatenate(outputs, axis=1), expected, atol=2e-5)


def test_symbolic_shapes_of_a_step_are_the_real_ones():
    layer = make("grouped heads")
    cache = layer.make_cache(B, T)
    real = layer(X[:, :2], X[:, :2], cache=cache, return_attention_scores=True, top_scores=3)
    symbols = keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape, x.dtype), cache)
    x = keras.KerasTensor((B, 2, D))
    symbolic = layer(x, x, cache=symbols, return_attention_scores=True, top_scores=3)
    for a, b in zip(keras.tree.flatten(symbolic), keras.tree.flatten(real), strict=True):
        assert tuple(a.shape) == tuple(b.shape)
        assert keras.backend.standardize_dtype(a.dtype) == keras.backend.standardize_dtype(b.dtype)


def test_what_cannot_be_cached_is_refused():
    layer = make("plain")
    with pytest.raises(ValueError, match=r"`cache` is full.* Received: a cache for 5 positions.*, and 11 more"):
        layer(X, X, cache=layer.make_cache(B, 5))
    _, cache = in_steps(layer, X[:, :5], [], layer.make_cache(B, 5))
    with pytest.raises(ValueError, match="Received: a cache for 5 positions of which 5 are filled, and 1 more"):
        layer(X[:, :1], X[:, :1], cache=cache)
    with pytest.raises(ValueError, match="`value` must be None with the cache of a context"):
        layer(X, X, cache=layer.make_context_cache(X))
    with pytest.raises(ValueError, match="must be built before it projects a context"):
        MultiHeadAttention(N, H).make_context_cache(X)
    with pytest.raises(ValueError, match=r"over the second axis. Received: attention_axes=.*'linear'"):
        MultiHeadAttention(N, H, implementation="linear").make_cache(B, T)
    images = np.zeros((1, 2, 3, D), "float32")
    over_images = MultiHeadAttention(N, H)
    over_images(images, images)
    with pytest.raises(ValueError, match="a cache is for softmax attention over the second axis"):
        over_images.make_cache(1, 6)
    with pytest.raises(ValueError, match="`top_scores` is for softmax attention over the second axis"):
        over_images(images, images, top_scores=2)
    window = make("window")
    with pytest.raises(ValueError, match="`attention_mask` as a tensor cannot be given with a cache of a sliding"):
        window(X[:, :1], X[:, :1], attention_mask=np.ones((1, 3)), cache=window.make_cache(B, T))
    with pytest.raises(ValueError, match="`memory` goes with neither a cache nor a key"):
        layer(X, X, X, memory=X)
    with pytest.raises(ValueError, match="must be built before it makes a cache"):
        TransformerBlock(N, 8).make_cache(B, T)
