"""TFRecord shards: what is written comes back, and what is damaged is said."""

import resource

import numpy as np
import pytest
import tensorflow as tf

from keras_attention.training import read_tfrecords, reader_errors, write_tfrecord_shards
from tests.training.formats import COLUMNS, read, rows_of, write


def _example(**features):
    kinds = {bytes: ("bytes_list", tf.train.BytesList), int: ("int64_list", tf.train.Int64List)}
    kinds[float] = ("float_list", tf.train.FloatList)
    made = {}
    for name, values in features.items():
        kind, make = kinds[type(values[0])]
        made[name] = tf.train.Feature(**{kind: make(value=values)})
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def _write(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path


RIGHT = _example(text=[b"right"], label=[1])


def test_lists_numbers_and_bytes_of_any_kind_come_back_from_several_shards(tmp_path):
    rows = [
        {"ids": list(range(i)), "name": b"\xff\x00" if i % 2 else "é", "x": i / 4, "words": np.array([b"a", b"b"])}
        for i in range(7)
    ]
    paths = write_tfrecord_shards(iter(rows), tmp_path / "train", num_shards=3)
    assert sorted(tmp_path.iterdir()) == paths
    assert paths[2].name == "train-00002-of-00003.tfrecord"
    columns = {"ids": tf.TensorSpec([None], tf.int32), "name": "string", "x": "float32"}
    columns["words"] = tf.TensorSpec([None], tf.string)
    dataset = read_tfrecords(tmp_path / "train-*", columns)
    assert dataset.element_spec["ids"] == tf.TensorSpec([None], tf.int32)
    got = [
        {name: np.asarray(value, value.dtype.as_numpy_dtype).tolist() for name, value in row.items()} for row in dataset
    ]
    got.sort(key=lambda row: len(row["ids"]))
    expected = [
        {**row, "words": [b"a", b"b"], "name": b"\xff\x00" if i % 2 else b"\xc3\xa9"} for i, row in enumerate(rows)
    ]
    assert got == expected


def test_a_dataset_is_written_as_it_is_read(tmp_path):
    source = write(tmp_path / "a.csv", [("one", 1), ("two", 2)])
    paths = write_tfrecord_shards(read(source), tmp_path / "b", 1)
    assert rows_of(read(paths)) == [("one", 1), ("two", 2)]


MALFORMED = [
    (b"no example at all", "the record must be a tf.train.Example"),
    (_example(text=[b"x"]), "the example must have 'label'"),
    (_example(text=[b"x"], label=[b"1"]), "'label' must be a int64_list"),
    (_example(text=[b"x"], label=[1.0]), "'label' must be a int64_list"),
    (_example(text=[b"x"], label=[1, 2]), "'label' must have one value"),
    (_example(text=[b"x"], label=[2**31]), "'label' must be an integer (int32)"),
]


# By name: the bytes of a map, and so the ids that pytest would make of them, differ between processes.
@pytest.mark.parametrize(
    ("record", "reason"), MALFORMED, ids=["no example", "absent", "bytes", "float", "two values", "too large"]
)
def test_a_malformed_record_is_an_error_with_its_number_or_skipped_and_counted(tmp_path, caplog, record, reason):
    path = _write(tmp_path / "a.tfrecord", [RIGHT] * 300 + [record] + [RIGHT] * 10)
    with pytest.raises(ValueError, match="Mend it, or pass `skip_malformed=True`") as error, reader_errors():
        rows_of(read(path))
    assert str(error.value).startswith(f"{path}, record 301: {reason}")
    assert len(rows_of(read(path, skip_malformed=True))) == 310
    assert f"1 malformed rows were skipped in this pass: {path}:301: {reason}" in caplog.text


@pytest.mark.parametrize("damage", ["truncated", "corrupted"])
def test_a_damaged_file_gives_all_rows_before_the_damage_and_says_where_it_is(tmp_path, caplog, damage):
    path = _write(tmp_path / "a.tfrecord", [RIGHT] * 700)
    content = bytearray(path.read_bytes())
    size = len(content) // 700
    if damage == "truncated":
        content = content[: 600 * size + 20]
    else:
        content[600 * size + 20] ^= 1
    path.write_bytes(content)
    with (
        pytest.raises(ValueError, match=rf"{path}, record 601: the file is damaged from here on.*{damage} record"),
        reader_errors(),
    ):
        rows_of(read(path))
    assert len(rows_of(read(path, skip_malformed=True))) == 600
    assert f"{path}:601: the file is damaged" in caplog.text


def test_a_file_that_is_no_tfrecord_is_refused_at_the_call(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_text("text,label\none,1\n")
    with pytest.raises(ValueError, match=r"a\.tfrecord, record 1: the file is damaged"):
        read(path)


def test_a_row_that_cannot_be_written_leaves_no_files(tmp_path):
    with pytest.raises(ValueError, match=r"`rows` must hold .*label=None in row 1"):
        write_tfrecord_shards([{"label": 1}, {"label": None}], tmp_path / "train", 2)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="`num_shards` must be a positive integer"):
        write_tfrecord_shards([], tmp_path / "train", 0)


def test_a_disk_that_is_full_leaves_the_shards_before_as_they_were(tmp_path):
    rows = [{"text": "x" * 1000, "label": label} for label in range(2000)]
    (path,) = write_tfrecord_shards(rows[:1], tmp_path / "folder" / "train")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # the kernel lets no file grow beyond this
    try:
        with pytest.raises(OSError, match=r"the shards could not be written .*train-00000-of-00001\.tfrecord"):
            write_tfrecord_shards(rows, tmp_path / "folder" / "train")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(path.parent.iterdir()) == [path]
    assert rows_of(read(path)) == [("x" * 1000, 0)]


def test_a_malformed_row_of_what_is_to_be_written_is_the_readers_error(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("text,label\none,1\ntwo,x\n")
    with pytest.raises(ValueError, match=r"a\.csv, line 3: 'label' must be an integer"):
        write_tfrecord_shards(read(source), tmp_path / "train")
    assert list(tmp_path.iterdir()) == [source]


def test_lists_are_not_taken_for_a_value(tmp_path):
    path = _write(tmp_path / "a.tfrecord", [_example(text=[b"a", b"b"], label=[1])])
    with pytest.raises(ValueError, match="'text' must have one value"):
        read_tfrecords(path, COLUMNS)
