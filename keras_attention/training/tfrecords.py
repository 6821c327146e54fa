"""TFRecord shards of `tf.train.Example`: written, and read as a dataset to train on."""

import contextlib
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_attention.training.columns import Malformed, make_columns
from keras_attention.training.data_files import find_files
from keras_attention.training.reader_errors import reader_errors
from keras_attention.training.rows import Rows


def read_tfrecords(path, columns, *, shard=None, shuffle_buffer=None, seed=0, skip_malformed=False):
    """Reads TFRecord files of `tf.train.Example`, row by row.

    Memory, malformed rows, shares and shuffling are as in `keras_attention.training.read_csv`; errors name the number
    of the record, from 1. Malformed is a record that is no Example, that lacks a feature, or whose feature has another
    kind or number of values. After a record that is truncated or whose checksum is wrong nothing can be read of that
    file: with `skip_malformed` it counts as one row, whatever stood behind it. Strings are bytes of any kind.

    Args:
        path: str or path of a file, a glob such as "train-*.tfrecord", or a list of them.
        columns: dict of the wanted features' names -> dtype: "string", an integer dtype, "float32" or "float64"; or
            `tf.TensorSpec([None], dtype)` for a feature with any number of values, such as the ids of tokens.
        shard: as in `read_csv`.
        shuffle_buffer: as in `read_csv`.
        seed: as in `read_csv`.
        skip_malformed: as in `read_csv`.

    Returns:
        `tf.data.Dataset` of dicts: the values of a row, scalars or [T], by the name of the column.

    Raises:
        ValueError: as in `read_csv`.

    Example:

    >>> import tempfile, pathlib
    >>> import tensorflow as tf
    >>> from keras_attention.training import read_tfrecords, write_tfrecord_shards
    >>> prefix = pathlib.Path(tempfile.mkdtemp()) / "train"
    >>> paths = write_tfrecord_shards([{"ids": [4, 7], "label": 1}, {"ids": [5], "label": 0}], prefix, num_shards=2)
    >>> [path.name for path in paths]
    ['train-00000-of-00002.tfrecord', 'train-00001-of-00002.tfrecord']
    >>> rows = read_tfrecords(paths, {"ids": tf.TensorSpec([None], tf.int32), "label": "int32"})
    >>> [row["ids"].numpy().tolist() for row in rows]
    [[4, 7], [5]]

    Reference: https://www.tensorflow.org/tutorials/load_data/tfrecord
    """
    wanted = make_columns(columns)

    def parse(record):
        try:
            features = tf.train.Example.FromString(record).features.feature
        except Exception as error:  # of the protobuf implementation in use, whose DecodeError is not TensorFlow's
            raise Malformed(f"the record must be a tf.train.Example ({error})", record) from None
        return [_values(column, features) for column in wanted]

    options = {"shard": shard, "shuffle_buffer": shuffle_buffer, "seed": seed, "skip_malformed": skip_malformed}
    return Rows(find_files(path), wanted, _records, parse, "record", **options).dataset()


def write_tfrecord_shards(rows, prefix, num_shards=1):
    """Writes rows as `tf.train.Example`, in turn to each of several TFRecord files.

    The files get their names when all are written: none is left half done. Their folder is made if need be.

    Args:
        rows: iterable of dicts of a str, bytes, number, list, array or tensor by name, such as a `tf.data.Dataset` that
            a reader of this package made. Floats are kept in float32.
        prefix: str or path that the names of the files begin with; "data/train" for data/train-00000-of-00004.tfrecord.
        num_shards: int.

    Returns:
        list of `pathlib.Path`, one a shard.

    Raises:
        ValueError: if `num_shards` is not positive, if a value is none of these, or for a malformed row of `rows`.
        OSError: if a file cannot be written.
    """
    if not isinstance(num_shards, int) or isinstance(num_shards, bool) or num_shards < 1:
        raise ValueError(f"`num_shards` must be a positive integer. Received: num_shards={num_shards!r}")
    paths = [Path(f"{os.fspath(prefix)}-{i:05d}-of-{num_shards:05d}.tfrecord") for i in range(num_shards)]
    unfinished = [path.with_name(path.name + ".writing") for path in paths]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    try:
        with reader_errors(), contextlib.ExitStack() as stack:
            writers = [stack.enter_context(tf.io.TFRecordWriter(str(path))) for path in unfinished]
            for number, row in enumerate(rows):
                features = {name: _feature(name, value, number) for name, value in row.items()}
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writers[number % num_shards].write(example.SerializeToString())
        for path, target in zip(unfinished, paths, strict=True):
            path.replace(target)
    except tf.errors.OpError as error:
        raise OSError(f"the shards could not be written ({error.message}): {paths[0]} and those after it") from error
    finally:
        for path in unfinished:
            path.unlink(missing_ok=True)
    return paths


# The C++ reader. A `tf.data.TFRecordDataset`, which its message recommends, takes fifty times as long to open a file.
_record_iterator = tf.compat.v1.io.tf_record_iterator.__wrapped__


def _records(path):
    number = 0
    try:
        for record in _record_iterator(path):
            number += 1
            yield number, record
    except tf.errors.DataLossError as error:
        yield number + 1, Malformed("the file is damaged from here on", error.message)


def _values(column, features):
    if column.name not in features:
        raise Malformed(f"the example must have {column.name!r}", sorted(features))
    feature = features[column.name]
    kind = feature.WhichOneof("kind")
    expected = "bytes_list" if column.is_string else "int64_list" if column.dtype.is_integer else "float_list"
    if kind not in (expected, None):
        raise Malformed(f"{column.name!r} must be a {expected}", kind)
    values = list(getattr(feature, expected).value)
    if column.is_list:
        return values if column.is_string else column.from_numbers(values)
    if len(values) != 1:
        raise Malformed(f"{column.name!r} must have one value", values)
    return values[0] if column.is_string else column.from_numbers(values[0])


def _feature(name, value, number):
    if isinstance(value, tf.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:  # of whatever kind
        return tf.train.Feature()
    if all(isinstance(each, str | bytes) for each in values):
        encoded = [each.encode() if isinstance(each, str) else each for each in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))
    if all(isinstance(each, int) for each in values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    if all(isinstance(each, int | float) for each in values):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    raise ValueError(
        f"`rows` must hold strings, bytes, numbers, or lists of one of them. Received: {name}={value!r} in row {number}"
    )
