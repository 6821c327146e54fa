"""CSV and JSON Lines as people write them, and what is said of files that are not quite that."""

import logging
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_attention.training import TrainingConfig, fit, read_csv, read_json_lines, reader_errors
from tests.training.formats import COLUMNS, READERS, read, rows_of, write, write_many

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_rows = st.lists(st.tuples(_texts, st.integers(-(2**31), 2**31 - 1)), min_size=1, max_size=8)


@pytest.mark.parametrize("format", READERS)
def test_whatever_text_and_numbers_are_written_come_back(format, tmp_path_factory):
    folder = tmp_path_factory.mktemp(format)

    @settings(max_examples=15, deadline=None)
    @given(_rows)
    def check(rows):
        assert rows_of(read(write(folder / f"rows.{format}", rows))) == rows

    check()


def test_columns_are_found_by_their_names_in_each_file_of_its_own_order(tmp_path):
    (tmp_path / "a.csv").write_text("label,ignored,text\n1,x,one\n")
    (tmp_path / "b.csv").write_text("text,label\ntwo,2\n")
    assert rows_of(read(tmp_path / "*.csv")) == [("one", 1), ("two", 2)]


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_no_part_of_the_rows(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf\r\ntext,label\r\n\r\n\xc3\xa9,1\r\n\r\n")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "\xc3\xa9", "label": 1}\r\n\r\n \n')
    for name in ("a.csv", "a.jsonl"):
        assert rows_of(read(tmp_path / name)) == [("é", 1)]


def test_another_delimiter_is_taken(tmp_path):
    (tmp_path / "a.csv").write_text('text\tlabel\n"a, b\tc"\t1\n')
    assert rows_of(read(tmp_path / "a.csv", delimiter="\t")) == [("a, b\tc", 1)]


def test_lists_and_floats_of_json_come_in_their_dtype(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"ids": [1, 2], "words": [], "x": 2}\n{"ids": [], "words": ["é"], "x": 0.5}\n')
    columns = {"ids": tf.TensorSpec([None], tf.int32), "words": tf.TensorSpec([None], tf.string), "x": "float32"}
    dataset = read_json_lines(tmp_path / "a.jsonl", columns)
    assert dataset.element_spec == {
        "ids": tf.TensorSpec([None], tf.int32),
        "words": tf.TensorSpec([None], tf.string),
        "x": tf.TensorSpec([], tf.float32),
    }
    rows = [{name: value.numpy().tolist() for name, value in row.items()} for row in dataset]
    assert rows == [{"ids": [1, 2], "words": [], "x": 2.0}, {"ids": [], "words": ["é".encode()], "x": 0.5}]


MALFORMED = [
    ("a.csv", b"one,1,2\n", "a row must have 2 fields, as the header, not 3", "['one', '1', '2']"),
    ("a.csv", b"one\n", "a row must have 2 fields, as the header, not 1", "['one']"),
    ("a.csv", b"one,1.5\n", "'label' must be an integer (int32)", "'1.5'"),
    ("a.csv", b"one,\n", "'label' must be an integer (int32)", "''"),
    ("a.csv", b"one,1_0\n", "'label' must be an integer (int32)", "'1_0'"),
    ("a.csv", b"one,2147483648\n", "'label' must be an integer (int32)", "'2147483648'"),
    ("a.csv", b"\xff,1\n", "'text' must be UTF-8", r"'\udcff'"),
    ("a.csv", b'"one" more,1\n', "the row must be CSV", "expected after"),
    ("a.jsonl", b'{"text": "one", "label": 1\n', "the line must be JSON (Expecting ',' delimiter", '"label": 1'),
    ("a.jsonl", b"[" * 100_000 + b"\n", "the line must be JSON (", "[["),
    ("a.jsonl", b"[1]\n", "the line must be a JSON object", "[1]"),
    ("a.jsonl", b'{"text": "one"}\n', "the object must have 'label'", "{'text': 'one'}"),
    ("a.jsonl", b'{"text": 5, "label": 1}\n', "'text' must be a string", "5"),
    ("a.jsonl", b'{"text": "one", "label": "1"}\n', "'label' must be an integer (int32)", "'1'"),
    ("a.jsonl", b'{"text": "one", "label": true}\n', "'label' must be an integer (int32)", "True"),
    ("a.jsonl", b'{"text": "one", "label": 1.0}\n', "'label' must be an integer (int32)", "1.0"),
    ("a.jsonl", b'{"text": "\xff", "label": 1}\n', "the line must be UTF-8, and is not at its byte 11", "xff"),
    ("a.jsonl", b'{"text": "\\ud800", "label": 1}\n', "'text' must be UTF-8", r"'\ud800'"),
]


def _file_with(folder, name, row):
    """A file whose third row is `row`: behind one that takes two lines in CSV."""
    path = write(folder / name, [("first\nof two lines", 1), ("second", 2)])
    line = len(path.read_bytes().splitlines()) + 1
    rest = write(folder / f"rest.{name}", [("last", 3)]).read_bytes().splitlines()[-1]
    path.write_bytes(path.read_bytes() + row + rest + b"\n")
    return path, line


@pytest.mark.parametrize(("name", "row", "reason", "received"), MALFORMED)
def test_a_malformed_row_is_an_error_with_file_line_and_what_to_do(tmp_path, name, row, reason, received):
    path, line = _file_with(tmp_path, name, row)
    dataset = read(path)
    with pytest.raises(ValueError, match="must") as error, reader_errors():
        rows_of(dataset)
    message = str(error.value)
    assert message.startswith(f"{path}, line {line}: {reason}"), message
    assert "Mend it, or pass `skip_malformed=True`. Received: " in message
    assert received in message.split("Received: ")[1]
    assert len(message) < 600
    # Nothing stands between: TensorFlow's own error has the same line.
    with pytest.raises(tf.errors.OpError) as wrapped:
        rows_of(dataset)
    assert f"ValueError: {message}\n" in wrapped.value.message


@pytest.mark.parametrize(("name", "row", "reason", "received"), MALFORMED)
def test_malformed_rows_are_skipped_when_asked_and_counted_in_every_pass(tmp_path, caplog, name, row, reason, received):
    path, line = _file_with(tmp_path, name, row)
    dataset = read(path, skip_malformed=True)
    assert not caplog.records
    for number in (1, 2):
        assert [label for _, label in rows_of(dataset)] == [1, 2, 3]
        assert len(caplog.records) == number
        assert f"1 malformed rows were skipped in this pass: {path}:{line}: {reason}" in caplog.messages[-1]


def test_many_malformed_rows_are_one_message_with_the_first_places(tmp_path, caplog):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "right,1\nwrong\n" * 2000)
    assert len(rows_of(read(path, skip_malformed=True))) == 2000
    (message,) = caplog.messages
    assert message.startswith(f"2000 malformed rows were skipped in this pass: {path}:3: ")
    assert message.count(str(path)) == 5
    assert message.endswith("; and 1995 more")


def test_a_quote_that_is_never_closed_names_the_line_where_it_opens(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\none,1\n"two,2\n' + "three,3\n" * 10)
    with pytest.raises(ValueError, match=rf"{path}, line 3: the row must be CSV up to line 13\. "), reader_errors():
        rows_of(read(path))
    path.write_text('text,label\none,1\n"two,2\n' + "three,3\n" * 100_000)
    with pytest.raises(ValueError, match=rf"{path}, line 3: .*if no quote is left open, raise it"), reader_errors():
        rows_of(read(path))


def test_the_first_row_of_every_file_is_looked_at_when_the_reader_is_called(tmp_path):
    write(tmp_path / "a.jsonl", [("right", 1)])
    (tmp_path / "b.jsonl").write_text('{"text": "no label"}\n')
    with pytest.raises(ValueError, match=r"b\.jsonl, line 1: the object must have 'label'\. Mend it"):
        read(tmp_path / "*.jsonl")
    with pytest.raises(ValueError, match=r"`path` must have a row that is right.*b\.jsonl, line 1: .*'label'"):
        read(tmp_path / "b.jsonl", skip_malformed=True)
    assert rows_of(read(tmp_path / "*.jsonl", skip_malformed=True)) == [("right", 1)]


def test_a_column_that_a_csv_file_lacks_is_refused_at_the_call_whatever_is_skipped(tmp_path):
    write(tmp_path / "a.csv", [("right", 1)])
    (tmp_path / "b.csv").write_text("text,category\nx,1\n")
    for skip in (False, True):
        with pytest.raises(ValueError, match=r"b\.csv must have each column .*columns with 'label', and the header"):
            read(tmp_path / "*.csv", skip_malformed=skip)
    (tmp_path / "b.csv").write_text("text,label,label\nx,1,2\n")
    with pytest.raises(ValueError, match="once in its header"):
        read(tmp_path / "b.csv")


@pytest.mark.parametrize("format", READERS)
def test_an_empty_file_among_others_is_named_once_and_no_rows_at_all_are_an_error(format, tmp_path, caplog):
    paths = write_many(tmp_path, format, [2, 0, 1])
    empty = tmp_path / f"zzz.{format}"
    empty.touch()
    dataset = read([*paths, empty])
    assert [label for _, label in rows_of(dataset)] == [label for _, label in rows_of(dataset)] == [0, 1, 2]
    assert caplog.messages == [f"2 of 4 files are empty: {paths[1]}, {empty}"]
    with pytest.raises(ValueError, match=r"`path` must have a row at least\. Received: .*part-001.*zzz"):
        read([paths[1], empty])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": []}, "`path` must name a file at least"),
        ({"path": "nowhere-*.csv"}, r"`path` must name files that are there.*'nowhere-\*\.csv', which matches none"),
        ({"path": "."}, "`path` must name files, not a folder: give a glob such as"),
        ({"columns": {}}, "`columns` must be a dict"),
        ({"columns": ["text"]}, "`columns` must be a dict"),
        ({"columns": {"text": "text"}}, r"`columns` must map each name to a dtype.*columns\['text'\]='text'"),
        ({"columns": {"text": "bool"}}, "`columns` must map each name to a dtype"),
        ({"columns": {"text": tf.TensorSpec([None, 2])}}, "`columns` must map each name to a dtype"),
        ({"columns": {"text": tf.TensorSpec([None], tf.string)}}, "`columns` must have one value a row"),
        ({"delimiter": ";;"}, "`delimiter` must be a string of one character"),
        ({"shard": (2, 2)}, r"`shard` must be.*shard=\(2, 2\)"),
        ({"shard": 2}, "`shard` must be"),
        ({"shuffle_buffer": 0}, "`shuffle_buffer` must be a positive integer"),
        ({"seed": -1}, "`seed` must be an integer from 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_the_call(tmp_path, options, message):
    path = write(tmp_path / "a.csv", [("one", 1)])
    with pytest.raises(ValueError, match=message) as error:
        read_csv(**{"path": path, "columns": COLUMNS, **options})
    assert "Received: " in str(error.value)


def _build():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("shuffle_buffer", [None, 10])
def test_a_malformed_row_comes_out_of_training_as_the_readers_own_error(tmp_path, shuffle_buffer):
    path, line = _file_with(tmp_path, "a.csv", b"wrong,x\n")

    def batches(**options):
        rows = read(path, shuffle_buffer=shuffle_buffer, **options).map(lambda row: tf.cast([row["label"]], tf.float32))
        return rows.map(lambda x: (x, x)).batch(1).prefetch(2)

    config = TrainingConfig(epochs=2, progress=False)
    expected = re.escape(f"{path}, line {line}: 'label' must be an integer (int32). Mend it")
    with pytest.raises(ValueError, match=f"^{expected}") as error:
        fit(_build, batches(), config=config)
    assert type(error.value) is ValueError
    with pytest.raises(ValueError, match=f"^{expected}"):
        fit(_build, tf.data.Dataset.from_tensors((np.ones((1, 1)),) * 2), batches(), config)
    history = fit(_build, batches(skip_malformed=True), config=config).history.history
    assert len(history["loss"]) == 2


def test_errors_that_are_no_readers_pass_unchanged():
    with pytest.raises(tf.errors.InvalidArgumentError, match="own"), reader_errors():
        tf.debugging.assert_equal(1, 2, "own")


@pytest.fixture(autouse=True)
def _log_level(caplog):
    caplog.set_level(logging.WARNING, "keras_attention")
