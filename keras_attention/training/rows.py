"""The rows of many files as one dataset: in chunks, in shares, shuffled, and without those that are malformed."""

import contextlib
import itertools
import logging
import random

import numpy as np
import tensorflow as tf

from keras_attention.training.arguments import is_int
from keras_attention.training.columns import Malformed
from keras_attention.training.reader_errors import remember

logger = logging.getLogger(__name__)

_CHUNK = 512  # rows that go from Python to tf.data at once
_PLACES = 5  # malformed rows that are named when they are counted
_PROBE = 100  # first rows of a file that are looked at beforehand where malformed ones are skipped


class Rows:
    """The rows of files of one format.

    Args:
        files: list of str.
        columns: list of `Column`.
        records: function of a file's name that yields (number, record): the number of its line, and what is parsed, or
            a `Malformed` in its place. It raises ValueError for a file that has not the columns.
        parse: function of a record that returns the values of the columns, or raises `Malformed`.
        unit: str, what the numbers count: "line" or "record".
        shard: (number of shards, index), `tf.distribute.InputContext` or None: which share of the rows to read.
        shuffle_buffer: int or None.
        seed: int.
        skip_malformed: bool.

    Raises:
        ValueError: if an argument is out of range, if no file has a row, or if the first row of a file is malformed.
    """

    def __init__(self, files, columns, records, parse, unit, *, shard, shuffle_buffer, seed, skip_malformed):
        if shuffle_buffer is not None and not (is_int(shuffle_buffer) and shuffle_buffer > 0):
            raise ValueError(
                f"`shuffle_buffer` must be a positive integer or None. Received: shuffle_buffer={shuffle_buffer!r}"
            )
        if not (is_int(seed) and 0 <= seed < 2**63):
            raise ValueError(f"`seed` must be an integer from 0 to 2**63 - 1. Received: seed={seed!r}")
        self._columns = columns
        self._records = records
        self._parse = parse
        self._unit = unit
        self._shuffle_buffer = shuffle_buffer
        self._skip_malformed = skip_malformed
        self._seed = seed
        shards, index = _shard(shard)
        files = self._without_empty(files)
        # In shares of whole files each worker reads its own only; in shares of rows all workers read everything.
        self._modulus, self._remainder = 1, 0
        if len(files) < shards:
            self._modulus, self._remainder = shards, index
        else:
            files = files[index::shards]
        # With its number, so that files of one row each do not all fall to one worker.
        self._files = list(enumerate(files))

    def dataset(self):
        """A `tf.data.Dataset` of dicts of one row's values by the name of the column."""
        signature = {column.name: _chunk_spec(column) for column in self._columns}
        if self._shuffle_buffer is None:
            chunks = tf.data.Dataset.from_generator(self._chunks, output_signature=signature)
        else:
            chunks = _pass_numbers(self._seed).flat_map(
                lambda number: tf.data.Dataset.from_generator(self._chunks, args=(number,), output_signature=signature)
            )
        lists = [column.name for column in self._columns if column.is_list]
        if not lists:
            return chunks.unbatch()

        def with_ragged(chunk):
            rows = {name: tf.RaggedTensor.from_row_lengths(*chunk[name], validate=False) for name in lists}
            return {**chunk, **rows}

        # Once unbatched, a row of a ragged tensor is an ordinary tensor; the specification knows it after a map.
        return chunks.map(with_ragged).unbatch().map(lambda row: row)

    def _chunks(self, number=None):
        """The rows of a pass, as one array a column for so many rows together."""
        files, rng = self._files, None
        if number is not None:
            rng = random.Random(int(number))
            files = rng.sample(files, len(files))
        rows = self._rows(files)
        if rng is not None:
            rows = _shuffled(rows, self._shuffle_buffer, rng)
        try:
            while chunk := list(itertools.islice(rows, _CHUNK)):
                values = zip(*chunk, strict=True)
                yield {column.name: _array(column, each) for column, each in zip(self._columns, values, strict=True)}
        except (ValueError, OSError) as error:
            remember(error)
            raise

    def _rows(self, files):
        skipped, places = 0, []
        try:
            for file_number, path in files:
                with contextlib.closing(self._records(path)) as records:
                    for ordinal, (number, record) in enumerate(records, file_number):
                        if ordinal % self._modulus != self._remainder:
                            continue
                        try:
                            row = self._parsed(record)
                        except Malformed as problem:
                            if not self._skip_malformed:
                                raise ValueError(self._describe(path, number, problem)) from None
                            skipped += 1
                            if len(places) < _PLACES:
                                places.append(f"{path}:{number}: {problem.reason}")
                            continue
                        yield row
        finally:
            if skipped:
                more = f"; and {skipped - len(places)} more" if skipped > len(places) else ""
                logger.warning("%d malformed rows were skipped in this pass: %s%s", skipped, "; ".join(places), more)

    def _parsed(self, record):
        if isinstance(record, Malformed):
            raise record
        return self._parse(record)

    def _describe(self, path, number, problem):
        return (
            f"{path}, {self._unit} {number}: {problem.reason}. Mend it, or pass `skip_malformed=True`. "
            f"Received: {problem.received}"
        )

    def _without_empty(self, files):
        """The files that have rows. What is wrong with their first rows is said now, and not in the first step."""
        filled, empty, problems, any_right = [], [], [], False
        for path in files:
            with contextlib.closing(self._records(path)) as records:
                beginning = list(itertools.islice(records, _PROBE if self._skip_malformed else 1))
            (filled if beginning else empty).append(path)
            for number, record in beginning:
                try:
                    self._parsed(record)
                except Malformed as problem:
                    problems.append(self._describe(path, number, problem))
                else:
                    any_right = True
                    break
            if problems and not self._skip_malformed:
                raise ValueError(problems[0])
        if not filled:
            raise ValueError(f"`path` must have a row at least. Received: {', '.join(files)}, which have none")
        if not any_right:
            raise ValueError(f"`path` must have a row that is right among the first of a file. Received: {problems[0]}")
        if empty:
            logger.warning("%d of %d files are empty: %s", len(empty), len(files), ", ".join(empty))
        return filled


def _shard(shard):
    if shard is None:
        return 1, 0
    if isinstance(shard, tf.distribute.InputContext):
        return shard.num_input_pipelines, shard.input_pipeline_id
    is_pair = isinstance(shard, tuple | list) and len(shard) == 2 and all(map(is_int, shard))
    if not is_pair or not 0 <= shard[1] < shard[0]:
        raise ValueError(
            "`shard` must be a tf.distribute.InputContext or (number of shards, index), the index from 0 and below the "
            f"number. Received: shard={shard!r}"
        )
    return tuple(shard)


def _pass_numbers(seed):
    """A dataset of one number, another in every pass, which follows from the seed and the number of the pass alone."""
    # `tf.data.Dataset.random` would mix in the program's global seed.
    variant = tf.raw_ops.RandomDatasetV2(
        seed=tf.constant(seed, tf.int64),
        seed2=tf.constant(1, tf.int64),  # two zeros would mean chance
        seed_generator=tf.raw_ops.DummySeedGenerator(),
        output_types=[tf.int64],
        output_shapes=[[]],
        rerandomize_each_iteration=True,
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.int64)).take(1)


def _shuffled(rows, size, rng):
    """The rows, each held back until another one takes its place in the buffer."""
    buffer = list(itertools.islice(rows, size))
    for row in rows:
        place = int(rng.random() * size)
        buffer[place], row = row, buffer[place]
        yield row
    rng.shuffle(buffer)
    yield from buffer


def _chunk_spec(column):
    spec = tf.TensorSpec([None], column.dtype)
    return (spec, tf.TensorSpec([None], tf.int64)) if column.is_list else spec


def _array(column, values):
    dtype = column.dtype.as_numpy_dtype
    if not column.is_list:
        return np.array(values, dtype)
    return np.array(list(itertools.chain.from_iterable(values)), dtype), np.array([len(v) for v in values], np.int64)
