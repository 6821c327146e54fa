"""Rows of many files: shared out, shuffled, resumed, and never all in memory."""

import itertools
import json
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_attention.training import TrainingConfig, bucket_by_length, fit, pack, read_json_lines
from keras_attention.training.batches import Feed
from keras_attention.training.strategies import Cluster
from tests.training.formats import READERS, labels_of, read, write_many

_BLANK, _WRONG = b"\n", b"wrong\n"


@settings(max_examples=15, deadline=None)
@given(
    format=st.sampled_from(sorted(READERS)),
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    workers=st.integers(1, 4),
    shuffle_buffer=st.sampled_from([None, 1, 3, 100]),
)
def test_together_the_workers_see_each_row_exactly_once(tmp_path_factory, format, sizes, workers, shuffle_buffer):
    paths = write_many(tmp_path_factory.mktemp("shares"), format, sizes)
    contexts = [tf.distribute.InputContext(workers, index, workers) for index in range(workers)]
    shares = [labels_of(read(paths, shard=context, shuffle_buffer=shuffle_buffer)) for context in contexts]
    assert sorted(itertools.chain(*shares)) == list(range(sum(sizes)))


def test_the_share_of_a_worker_is_whole_files_where_there_are_enough_and_rows_of_all_elsewhere(tmp_path):
    paths = write_many(tmp_path, "csv", [3, 3, 3, 3])
    assert labels_of(read(paths, shard=(2, 1))) == [3, 4, 5, 9, 10, 11]
    assert labels_of(read(paths[:1], shard=(2, 1))) == [1]
    assert labels_of(read(paths[:1], shard=(2, 0))) == [0, 2]
    single = write_many(tmp_path, "jsonl", [1, 1])
    assert [labels_of(read(single, shard=(3, index))) for index in range(3)] == [[0], [1], []]


def test_a_malformed_row_is_skipped_by_one_worker_and_moves_no_other_rows(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    rows = [json.dumps({"text": "", "label": label}).encode() + b"\n" for label in range(8)]
    path.write_bytes(b"".join([*rows[:3], _WRONG, _BLANK, *rows[3:]]))
    shares = [labels_of(read(path, shard=(2, index), skip_malformed=True)) for index in range(2)]
    assert sorted(itertools.chain(*shares)) == list(range(8))
    (message,) = caplog.messages
    assert "1 malformed" in message


def test_training_gives_a_function_of_the_context_its_share(tmp_path):
    paths = write_many(tmp_path, "csv", [6])
    seen = []

    def batches(context):
        rows = read(paths, shard=context).map(lambda row: tf.cast([row["label"]], tf.float32))
        return rows.map(lambda x: (x, x)).batch(2)

    class See(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)

    def build():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    fit(build, batches, config=TrainingConfig(progress=False), callbacks=[See()])
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("format", READERS)
def test_the_order_follows_from_the_seed_and_the_pass_alone(format, tmp_path):
    paths = write_many(tmp_path, format, [40, 30, 20, 10])

    def passes(**options):
        dataset = read(paths, shuffle_buffer=16, **options)
        return [labels_of(dataset) for _ in range(3)]

    orders = passes(seed=1)
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in [*orders, list(range(100))]}) == 4
    tf.random.set_seed(5)  # that of the program does not matter
    assert passes(seed=1) == orders
    assert not set(map(tuple, passes(seed=2))) & set(map(tuple, orders))
    # `repeat` begins passes of its own, in the same order of orders.
    assert labels_of(read(paths, shuffle_buffer=16, seed=1).repeat(3)) == list(itertools.chain(*orders))


def test_rows_move_no_further_ahead_than_the_buffer_holds(tmp_path):
    (path,) = write_many(tmp_path, "csv", [2000])
    order = labels_of(read(path, shuffle_buffer=50))
    assert max(label - place for place, label in enumerate(order)) < 50
    assert order != sorted(order)


def _batches(paths):
    rows = read_json_lines(paths, {"ids": tf.TensorSpec([None], tf.int32)}, shuffle_buffer=30, seed=3).map(
        lambda row: row["ids"]
    )
    bucketed = bucket_by_length(rows, [4, 8, 12], tokens_per_batch=24)
    packed = pack(rows, sequence_length=16, buffer_size=20).batch(4)
    return {"bucketed": bucketed.prefetch(1), "packed": packed.prefetch(1)}


@pytest.mark.parametrize("name", ["bucketed", "packed"])
def test_a_restarted_run_goes_on_with_the_batches_that_an_unbroken_one_has(name, tmp_path):
    for part in range(3):
        lines = [json.dumps({"ids": [part + 1] * (1 + (7 * i + part) % 12)}) + "\n" for i in range(50)]
        (tmp_path / f"{part}.jsonl").write_text("".join(lines))

    def feed():
        dataset = _batches(str(tmp_path / "*.jsonl"))[name]
        return Feed(dataset, tf.distribute.get_strategy(), Cluster(), "train")

    whole, expected = feed(), []
    for _ in range(3):
        whole.start()
        expected.append([])
        while whole.has_next:
            expected[-1].append([part.numpy().tolist() for part in tf.nest.flatten(whole.take())])
    assert expected[0] != expected[1] != expected[2]

    for passes, batches in ((0, 0), (1, 3), (2, len(expected[2]) - 1)):
        resumed = feed()
        resumed.go_to(passes, batches)
        for number in range(passes, 3):
            if number > passes:
                resumed.start()
            got = []
            while resumed.has_next:
                got.append([part.numpy().tolist() for part in tf.nest.flatten(resumed.take())])
            assert got == expected[number][batches if number == passes else 0 :]


def _resident():
    """Bytes of memory that this process holds."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("format", READERS)
def test_memory_does_not_grow_with_the_file(format, tmp_path):
    """A file of 200 MB, and more rows than the buffer holds by far."""
    (small,) = write_many(tmp_path, format, [1])
    text = "word " * 800
    row = {
        "csv": f"{text},1\n".encode(),
        "jsonl": json.dumps({"text": text, "label": 1}).encode() + b"\n",
        "tfrecord": None,
    }[format]
    path = tmp_path / f"large.{format}"
    if row is None:
        feature = {
            "text": tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()])),
            "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1])),
        }
        example = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
        with tf.io.TFRecordWriter(str(path)) as writer:
            for _ in range(50_000):
                writer.write(example)
    else:
        header = b"text,label\n" if format == "csv" else b""
        with path.open("wb") as file:
            file.write(header)
            for _ in range(50):
                file.write(row * 1000)
    assert path.stat().st_size > 190e6

    labels_of(read(small))  # what TensorFlow takes once
    before = _resident()
    rows, most = 0, 0
    for batch in read(path, shuffle_buffer=1000).batch(500):
        rows += len(batch["label"])
        most = max(most, _resident() - before)
    assert rows == 50_000
    assert most < 80e6
