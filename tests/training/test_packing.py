"""Sequences packed into rows: all of them, whole, and blind to one another."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_attention.layers import RotaryPosition, TransformerBlock
from keras_attention.masks import Segments
from keras_attention.training import TrainingConfig, fit, pack, padding_share, reader_errors
from keras_attention.training.packing import best_fit, pack_arrays


def _dataset(sequences, dtype=tf.int32):
    return tf.data.Dataset.from_generator(lambda: iter(sequences), output_signature=tf.TensorSpec([None], dtype))


def _sequences(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 50, size=length).astype(np.int32) for length in lengths]


def _unpack(rows):
    """The sequences that rows of (tokens, segment_ids, positions) hold."""
    for tokens, segments, positions in rows:
        for segment in range(1, max(segments, default=0) + 1):
            places = np.flatnonzero(segments == segment)
            assert places.size
            assert (np.diff(places) == 1).all()
            assert positions[places].tolist() == list(range(len(places)))
            yield tuple(tokens[places].tolist())
        padding = segments == 0
        assert not tokens[padding].any()
        assert not positions[padding].any()


def _arrays(dataset):
    return [(row["tokens"], row["segment_ids"], row["positions"]) for row in dataset.as_numpy_iterator()]


@settings(max_examples=200)
@given(lengths=st.lists(st.integers(0, 12), max_size=40))
def test_every_sequence_is_whole_in_one_row(lengths):
    sequences = _sequences(lengths)
    rows = zip(*pack_arrays(np.concatenate([[], *sequences]).astype(np.int32), np.array(lengths, int), 12), strict=True)
    assert sorted(_unpack(rows)) == sorted(tuple(ids.tolist()) for ids in sequences if ids.size)


@pytest.mark.parametrize("buffer_size", [1, 7, 50, 1000])
def test_every_sequence_is_in_one_row_whatever_the_buffer_holds(buffer_size):
    sequences = _sequences(np.random.default_rng(1).integers(0, 13, size=50))
    rows = pack(_dataset(sequences), sequence_length=12, buffer_size=buffer_size)
    assert sorted(_unpack(_arrays(rows))) == sorted(tuple(ids.tolist()) for ids in sequences if ids.size)
    assert rows.batch(4).element_spec == dict.fromkeys(
        ("tokens", "segment_ids", "positions"), tf.TensorSpec([None, 12], tf.int32)
    )
    assert not list(pack(_dataset([]), 12, buffer_size))


@settings(max_examples=200)
@given(st.lists(st.integers(1, 30), max_size=80))
def test_each_sequence_goes_longest_first_where_it_leaves_the_least_room(lengths):
    rows = best_fit(np.array(lengths, np.int64), room=30)
    assert sorted(itertools.chain(*rows)) == list(range(len(lengths)))
    assert [min(row) for row in rows] == sorted(min(row) for row in rows)
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append(min(fitting, default=30) - length)
    assert sorted(30 - sum(lengths[thing] for thing in row) for row in rows) == sorted(rooms)


def test_on_skewed_lengths_almost_nothing_is_padding():
    lengths = np.random.default_rng(0).lognormal(3.1, 0.8, size=4000).astype(int).clip(1, 256)
    rows = pack(_dataset(_sequences(lengths)), sequence_length=256)
    assert padding_share(rows.map(lambda row: row["tokens"]).batch(8)) < 0.02


@pytest.mark.parametrize("size", [None, 3])
def test_other_integers_and_sequences_of_one_length_are_taken(size):
    ids = np.arange(1, 10, dtype=np.int64).reshape(3, 3)
    dataset = tf.data.Dataset.from_tensor_slices(ids) if size else _dataset(list(ids), tf.int64)
    rows = list(pack(dataset, sequence_length=7))
    assert [row["tokens"].numpy().tolist() for row in rows] == [[1, 2, 3, 4, 5, 6, 0], [7, 8, 9, 0, 0, 0, 0]]
    assert rows[0]["tokens"].dtype == tf.int64


def test_a_longer_sequence_is_refused_or_cut_as_asked():
    sequences = [np.arange(1, 4, dtype=np.int32), np.arange(10, 20, dtype=np.int32)]
    cut = pack(_dataset(sequences), sequence_length=5, too_long="cut")
    assert sorted(_unpack(_arrays(cut))) == [(1, 2, 3), (10, 11, 12, 13, 14)]
    refused = pack(_dataset(sequences), sequence_length=5)
    expected = (
        r"no sequence longer than `sequence_length` \(5\).*Received: one of 10 tokens, which begins with \[10, 11"
    )
    with pytest.raises(ValueError, match=expected), reader_errors():
        list(refused)


def test_a_sequence_that_is_too_long_comes_out_of_training_as_our_own_error():
    rows = pack(_dataset(_sequences([3, 9])), sequence_length=5).map(lambda row: tf.cast(row["tokens"], tf.float32))

    def build():
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    with pytest.raises(ValueError, match=r"^`dataset` must hold no sequence longer"):
        fit(build, rows.map(lambda x: (x, x[:1])).batch(2), config=TrainingConfig(progress=False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 0}, "`sequence_length` must be a positive integer"),
        ({"buffer_size": 0}, "`buffer_size` must be a positive integer"),
        ({"too_long": "split"}, "`too_long` must be 'refuse' or 'cut'"),
        ({"dataset": tf.data.Dataset.range(3)}, "`dataset` must consist of integers"),
        ({"dataset": _dataset([], tf.float32)}, "`dataset` must consist of integers"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message + ".*Received"):
        pack(**{"dataset": _dataset([]), "sequence_length": 4, **options})


class _Blocks(keras.layers.Layer):
    """Causal blocks over tokens, within segments where they are given."""

    def __init__(self, position):
        super().__init__()
        self.tokens = keras.layers.Embedding(50, 16)
        self.positions = keras.layers.Embedding(20, 16) if position == "learned" else None
        options = {"attention_options": {"position": RotaryPosition()}} if position == "rotary" else {}
        self.blocks = [TransformerBlock(4, 32, causal=True, seed=i, **options) for i in range(2)]

    def call(self, tokens, positions, segment_ids):
        x = self.tokens(tokens)
        if self.positions is not None:
            x = x + self.positions(positions)
        places = ops.arange(tokens.shape[1])
        same_segment = Segments(segment_ids).tile(places, places)  # [B, 1, T, T]
        for block in self.blocks:
            x = block(x, attention_mask=same_segment)
        return x


@pytest.mark.parametrize("position", ["learned", "rotary"])
def test_a_token_of_a_packed_row_gets_what_it_gets_in_its_sequence_alone(position):
    keras.utils.set_random_seed(0)
    sequences = _sequences([7, 3, 12, 5, 1, 9, 4, 20, 2, 6])
    model = _Blocks(position)
    (packed,) = pack(_dataset(sequences), sequence_length=20).batch(10)
    outputs = model(packed["tokens"], packed["positions"], packed["segment_ids"]).numpy()
    found = 0
    for tokens, segments, states in zip(packed["tokens"].numpy(), packed["segment_ids"].numpy(), outputs, strict=True):
        for segment in range(1, segments.max() + 1):
            ids = tokens[segments == segment]
            places = np.arange(len(ids))[np.newaxis]
            alone = model(ids[np.newaxis], places, np.ones_like(places)).numpy()[0]
            np.testing.assert_allclose(states[segments == segment], alone, rtol=0, atol=1e-5)
            found += 1
    assert found == len(sequences)
    # It is the mask that does it: without the segments the second sequence of a row sees the first.
    blind = model(packed["tokens"], packed["positions"], tf.ones_like(packed["segment_ids"])).numpy()
    assert np.abs(blind - outputs)[packed["segment_ids"] == 2].max() > 1e-2
