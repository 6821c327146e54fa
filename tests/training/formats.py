"""The same rows in each of the formats that the readers take."""

import csv
import json
from pathlib import Path

from keras_attention.training import read_csv, read_json_lines, read_tfrecords, write_tfrecord_shards

COLUMNS = {"text": "string", "label": "int32"}
READERS = {"csv": read_csv, "jsonl": read_json_lines, "tfrecord": read_tfrecords}


def write(path, rows):
    """Writes rows, (text, label) each, in the format that the name ends with; returns the path."""
    path = Path(path)
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    elif path.suffix == ".jsonl":
        lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
        path.write_text("".join(lines), encoding="utf-8")
    else:
        (shard,) = write_tfrecord_shards([{"text": text, "label": label} for text, label in rows], path)
        shard.rename(path)
    return path


def write_many(folder, format, sizes):
    """Files of so many rows each, whose labels count up through all of them; returns the paths."""
    paths, start = [], 0
    for number, size in enumerate(sizes):
        rows = [(f"text {label}", label) for label in range(start, start + size)]
        paths.append(write(Path(folder) / f"part-{number:03d}.{format}", rows))
        start += size
    return paths


def read(path, **options):
    """The dataset of a file, a glob or a list of files, by the format of the first."""
    first = path[0] if isinstance(path, list) else path
    return READERS[Path(first).suffix[1:]](path, COLUMNS, **options)


def rows_of(dataset):
    """The (text, label) of each row."""
    return [(row["text"].numpy().decode(), int(row["label"])) for row in dataset]


def labels_of(dataset):
    """The label of each row."""
    return [int(label) for batch in dataset.map(lambda row: row["label"]).batch(1000) for label in batch]
