"""Batches of like lengths."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_attention.training import bucket_by_length, padding_share


def _rows(lengths):
    def rows():
        for number, length in enumerate(lengths):
            yield np.full(length, number + 1, np.int32), number + 1

    return tf.data.Dataset.from_generator(
        rows, output_signature=(tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32))
    )


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), max_size=60),
    boundaries=st.sets(st.integers(1, 30), min_size=1, max_size=5).map(sorted),
    factor=st.integers(1, 4),
)
def test_every_row_is_in_one_batch_with_its_like_and_no_batch_is_over_the_budget(lengths, boundaries, factor):
    budget = boundaries[-1] * factor
    seen = []
    for ids, numbers in bucket_by_length(_rows(lengths), boundaries, budget):
        real = [lengths[number - 1] for number in numbers]
        seen += numbers.numpy().tolist()
        for row, number, length in zip(ids.numpy(), numbers.numpy(), real, strict=True):
            assert row.tolist() == [number] * length + [0] * (ids.shape[1] - length)
        assert ids.shape[1] == max(real)
        assert len({np.searchsorted(boundaries, length) for length in real}) == 1
        assert tf.size(ids) <= budget or (len(real) == 1 and real[0] > boundaries[-1])
    assert sorted(seen) == list(range(1, len(lengths) + 1))


def test_buckets_leave_less_padding_than_batches_as_they_come():
    lengths = np.random.default_rng(0).lognormal(3, 0.8, size=2000).astype(int).clip(1, 256)
    rows = _rows(lengths.tolist()).map(lambda ids, number: ids)
    bucketed = padding_share(bucket_by_length(rows, [8, 16, 32, 64, 128, 256], 2048))
    plain = padding_share(rows.padded_batch(32))
    positions = sum(int(tf.size(batch)) for batch in rows.padded_batch(32))
    assert plain == pytest.approx(1 - lengths.sum() / positions)
    assert bucketed < 0.35 < 0.6 < plain


def test_the_length_may_be_that_of_one_column_and_the_padding_another_value():
    rows = _rows([5, 2, 3]).map(lambda ids, number: {"short": ids[:1], "long": ids})
    batches = bucket_by_length(
        rows, [1, 4], 4, length_of=lambda row: tf.shape(row["short"])[0], padding_values={"short": 0, "long": -1}
    )
    (batch,) = batches
    assert batch["long"].numpy().tolist() == [[1] * 5, [2, 2, -1, -1, -1], [3, 3, 3, -1, -1]]


@pytest.mark.parametrize(
    ("boundaries", "budget", "message"),
    [
        ([], 4, "`boundaries` must be positive, increasing integers"),
        ([4, 4], 4, "`boundaries` must be positive, increasing integers"),
        ([0, 4], 4, "`boundaries` must be positive, increasing integers"),
        ([2.5], 4, "`boundaries` must be positive, increasing integers"),
        ([4], 3, "`tokens_per_batch` must be an integer, and hold a row of the last boundary"),
    ],
)
def test_boundaries_and_budgets_that_make_no_sense_are_refused(boundaries, budget, message):
    with pytest.raises(ValueError, match=message + ".*Received"):
        bucket_by_length(_rows([1]), boundaries, budget)


def test_rows_without_a_length_and_batches_without_a_position_are_refused():
    with pytest.raises(ValueError, match=r"`length_of` must be given.*Received"):
        bucket_by_length(tf.data.Dataset.range(3), [4], 4)
    with pytest.raises(ValueError, match=r"`batches` must have a position at least.*Received"):
        padding_share(tf.data.Dataset.from_tensors(tf.zeros([0, 3], tf.int32)))
