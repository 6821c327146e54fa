"""Mask specifications: what they allow, tile by tile, and how they are kept."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_attention.layers import MultiHeadAttention
from keras_attention.masks import (
    Both,
    Causal,
    Explicit,
    Padding,
    Predicate,
    PrefixLM,
    Segments,
    SlidingWindow,
    combine,
)
from tests.backend import assert_close, assert_equal, to_numpy


def whole(mask, t, s, b=1, n=1):
    tile = mask.tile(np.arange(t, dtype="int32"), np.arange(s, dtype="int32"))
    return np.broadcast_to(to_numpy(tile), (b, n, t, s))


def test_causal_allows_a_position_itself_and_those_before():
    assert_equal(whole(Causal(), 3, 4)[0, 0], np.tril(np.ones((3, 4), bool)))


def test_a_sliding_window_reaches_one_less_than_its_size_to_each_side():
    allowed = whole(SlidingWindow(2), 5, 5)[0, 0]
    assert_equal(allowed, np.abs(np.subtract.outer(np.arange(5), np.arange(5))) < 2)


def test_padding_hides_keys_or_queries():
    valid = np.array([[1, 1, 0], [1, 0, 0]])
    assert_equal(whole(Padding(valid), 2, 3, b=2)[:, 0, 0], valid.astype(bool))
    assert_equal(whole(Padding(valid, axis="query"), 3, 2, b=2)[:, 0, :, 0], valid.astype(bool))


@settings(deadline=None)  # JAX compiles every shape that it meets
@given(st.data())
def test_a_tile_is_a_piece_of_the_whole_for_every_mask(data):
    t, s = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    mask = data.draw(
        st.sampled_from(
            [
                Causal(),
                SlidingWindow(2) & Causal(),
                Padding(rng.random((2, s)) < 0.5),
                Padding(rng.random((2, t)) < 0.5, axis="query") & Causal(),
                Explicit(rng.random((2, t, s)) < 0.5) & SlidingWindow(3),
                Explicit(rng.random((2, 3, 1, s)) < 0.5),
                PrefixLM(2) & Segments(rng.integers(0, 3, (2, t)), rng.integers(0, 3, (2, s))),
                Predicate(lambda rows, columns: (rows * columns) % 2 == 0),
            ]
        )
    )
    rows = np.array(data.draw(st.lists(st.integers(0, t - 1), min_size=1)), "int32")
    columns = np.array(data.draw(st.lists(st.integers(0, s - 1), min_size=1)), "int32")
    tile = np.broadcast_to(to_numpy(mask.tile(rows, columns)), (2, 3, len(rows), len(columns)))
    assert_equal(tile, whole(mask, t, s, 2, 3)[:, :, rows][:, :, :, columns])


@settings(deadline=None)
@given(
    st.sampled_from(
        [Causal(), SlidingWindow(3), PrefixLM(4), Causal() & SlidingWindow(2), PrefixLM(2) & SlidingWindow(5)]
    ),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_the_span_of_keys_leaves_nothing_out_and_never_goes_back(mask, t, s):
    allowed = whole(mask, t, s)[0, 0]
    before = (0, 0)
    for start in range(0, t, 3):
        stop = min(start + 3, t)
        first, last = (int(end) for end in mask.keys(start, stop, s))
        assert 0 <= first <= last <= s
        assert not allowed[start:stop, :first].any()
        assert not allowed[start:stop, last:].any()
        assert (first, last) >= before
        before = (first, last)


def test_segments_attend_to_themselves_only():
    packed = np.array([[0, 0, 1, 2, 2]])
    assert_equal(whole(Segments(packed), 5, 5)[0, 0], packed[0][:, None] == packed[0])


def test_a_prefix_is_seen_by_all_and_the_rest_is_causal():
    expected = np.tril(np.ones((4, 4), bool))
    expected[:, :2] = True
    assert_equal(whole(PrefixLM(2), 4, 4)[0, 0], expected)


def test_static_masks_are_values_and_survive_serialization():
    mask = Causal() & SlidingWindow(4)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(mask))
    assert again == mask
    assert hash(again) == hash(mask)
    assert again != Causal() & SlidingWindow(5)
    assert repr(mask) == "Causal() & SlidingWindow(size=4)"
    assert isinstance(mask, Both)


def test_a_static_mask_is_saved_in_a_functional_model(tmp_path):
    x = keras.Input((None, 8))
    model = keras.Model(x, MultiHeadAttention(2, 4)(x, x, mask=Causal() & SlidingWindow(2)))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    sample = np.random.default_rng(0).normal(size=(2, 6, 8)).astype("float32")
    assert_close(model(sample), again(sample), atol=1e-6)
    changed = sample.copy()
    changed[:, 3:] += 1
    assert_equal(again(sample)[:, :3], again(changed)[:, :3])


def test_a_mask_that_would_hold_a_symbolic_tensor_is_refused():
    with pytest.raises(ValueError, match="inside a layer's `call`"):
        Padding(keras.Input((None,), dtype="bool"))


def test_combining_leaves_out_what_is_not_there():
    assert combine(None, None) is None
    assert combine(None, Causal(), None) == Causal()
    assert combine(Causal(), None, SlidingWindow(2)) == Causal() & SlidingWindow(2)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, None])
def test_a_window_that_is_no_positive_integer_is_refused(size):
    with pytest.raises(ValueError, match="Received: size="):
        SlidingWindow(size)


def test_a_mask_of_the_wrong_rank_is_refused():
    with pytest.raises(ValueError, match=r"Received: shape \(4,\)"):
        Explicit(np.ones(4))
    with pytest.raises(ValueError, match=r"Received: shape \(2, 3, 4\)"):
        Padding(np.ones((2, 3, 4)))


def test_a_mask_that_holds_a_tensor_cannot_be_saved_and_says_so():
    with pytest.raises(ValueError, match="cannot be saved"):
        keras.saving.serialize_keras_object(Causal() & Padding(np.ones((1, 2))))
