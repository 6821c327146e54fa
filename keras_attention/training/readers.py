"""Rows of CSV and JSON Lines files, of any size, as a dataset to train on."""

import codecs
import csv
import json

from keras_attention.training.columns import Malformed, make_columns
from keras_attention.training.data_files import find_files
from keras_attention.training.rows import Rows


def read_csv(path, columns, delimiter=",", *, shard=None, shuffle_buffer=None, seed=0, skip_malformed=False):
    """Reads CSV files with a header, row by row.

    As RFC 4180 has them: a field may be in double quotes, and then hold delimiters, line breaks and doubled quotes. In
    UTF-8, with or without a byte order mark. Columns that are not wanted are ignored, and their order is that of each
    file's own header.

    Memory does not grow with the files: a chunk of rows and the shuffle buffer are held. Tokenize and batch many rows
    at once, and let the last step be `prefetch`, so that reading goes on while the model trains:
    `rows.batch(512).map(tokenize)...prefetch(tf.data.AUTOTUNE)`.

    A malformed row is an error that names its file and line: a wrong number of fields, a number that is none or not in
    the range of its dtype, text that is not UTF-8, quotes that are not closed.

    Args:
        path: str or path of a file, a glob, or a list of them.
        columns: dict of the wanted columns' names -> dtype: "string", an integer dtype, "float32" or "float64".
        delimiter: str of one character; "\\t" for tab-separated values.
        shard: which share of the rows to read: the `tf.distribute.InputContext` that `training.fit` gives to a function
            of it, or (number of shards, index). Whole files where there are as many, else every so-manieth row; each
            row is in one share. Defaults to all rows.
        shuffle_buffer: int, the rows that are held to draw the next one from; the order of the files is shuffled too.
            It is another order in every pass, which follows from `seed` and the number of the pass alone. None keeps
            the rows in order.
        seed: int, of the shuffling.
        skip_malformed: bool. Leave malformed rows out; they are counted, and logged at the end of the pass.

    Returns:
        `tf.data.Dataset` of dicts: the values of a row, scalar tensors, by the name of the column.

    Raises:
        ValueError: now, if an argument is out of range, no file is found, a file lacks a column or begins with a
            malformed row, or none has a row (an empty one among others is logged); and while it is read, for a
            malformed row. There it comes out of `training.fit`, and of what is read within
            `keras_attention.training.reader_errors`.

    Example:

    >>> import tempfile, pathlib
    >>> from keras_attention.training import read_csv
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "train.csv"
    >>> _ = path.write_text('text,label\\n"Hello, world",1\\n')
    >>> for row in read_csv(path, {"text": "string", "label": "int32"}):
    ...     print(row["text"].numpy(), row["label"].numpy())
    b'Hello, world' 1

    Reference: https://www.rfc-editor.org/rfc/rfc4180
    """
    wanted = make_columns(columns, lists=False)
    if not (isinstance(delimiter, str) and len(delimiter) == 1):
        raise ValueError(f"`delimiter` must be a string of one character. Received: delimiter={delimiter!r}")
    names = [column.name for column in wanted]

    def records(file):
        return _csv_records(file, names, delimiter)

    def parse(fields):
        return [column.from_text(field) for column, field in zip(wanted, fields, strict=True)]

    options = {"shard": shard, "shuffle_buffer": shuffle_buffer, "seed": seed, "skip_malformed": skip_malformed}
    return Rows(find_files(path), wanted, records, parse, "line", **options).dataset()


def read_json_lines(path, columns, *, shard=None, shuffle_buffer=None, seed=0, skip_malformed=False):
    """Reads JSON Lines files, a JSON object a line, row by row.

    In UTF-8, with or without a byte order mark; empty lines are passed over, and so are members that are not wanted.
    Memory, malformed rows, shares and shuffling are as in `read_csv`. Malformed is a line that is not a JSON object of
    UTF-8, that lacks a column, or whose value has another type: a number is not taken for a string, nor "1" for a
    number.

    Args:
        path: str or path of a file, a glob, or a list of them.
        columns: dict of the wanted members' names -> dtype: "string", an integer dtype, "float32" or "float64"; or
            `tf.TensorSpec([None], dtype)` for a list of them, such as the ids of tokens.
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
    >>> from keras_attention.training import read_json_lines
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "train.jsonl"
    >>> _ = path.write_text('{"ids": [4, 7], "label": 1}\\n{"ids": [5], "label": 0}\\n')
    >>> rows = read_json_lines(path, {"ids": tf.TensorSpec([None], tf.int32), "label": "int32"})
    >>> [row["ids"].numpy().tolist() for row in rows]
    [[4, 7], [5]]

    Reference: https://jsonlines.org
    """
    wanted = make_columns(columns)

    def parse(line):
        row = _json_object(line)
        for column in wanted:
            if column.name not in row:
                raise Malformed(f"the object must have {column.name!r}", row)
        return [column.from_json(row[column.name]) for column in wanted]

    options = {"shard": shard, "shuffle_buffer": shuffle_buffer, "seed": seed, "skip_malformed": skip_malformed}
    return Rows(find_files(path), wanted, _json_records, parse, "line", **options).dataset()


def _csv_records(path, names, delimiter):
    # What is not UTF-8 must not end the file: it becomes surrogates, which no column takes.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(filter(None, rows), None)
        except csv.Error as error:
            raise ValueError(f"{path} must begin with a header: {error} (line {rows.line_num})") from None
        if header is None:
            return
        for name in names:
            if header.count(name) != 1:
                raise ValueError(
                    f"{path} must have each column of `columns` once in its header (line {rows.line_num}). Received: "
                    f"columns with {name!r}, and the header {header!r}"
                )
        places = [header.index(name) for name in names]
        while True:
            line = rows.line_num + 1
            try:
                fields = next(rows, None)
            except csv.Error as error:
                yield line, _not_csv(error, line, rows.line_num)
                continue
            if fields is None:
                return
            if len(fields) == len(header):
                yield line, [fields[place] for place in places]
            elif fields:  # else an empty line
                yield line, Malformed(f"a row must have {len(header)} fields, as the header, not {len(fields)}", fields)


def _not_csv(error, first, last):
    until = f" up to line {last}" if last > first else ""
    if "field limit" in str(error):
        error = f"{error}; if no quote is left open, raise it by csv.field_size_limit"
    return Malformed(f"the row must be CSV{until}", str(error))


def _json_records(path):
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.isspace() and line:
                yield number, line


def _json_object(line):
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise Malformed(f"the line must be UTF-8, and is not at its byte {error.start + 1}", line) from None
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the line must be JSON ({error})", line.decode()) from None
    if not isinstance(row, dict):
        raise Malformed("the line must be a JSON object", row)
    return row
