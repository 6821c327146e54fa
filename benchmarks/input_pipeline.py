"""Text pipelines against the training steps that they feed, and packed batches against padded ones.

    python -m benchmarks.input_pipeline [--rounds 5] [--text FILE]

First table: rows of CSV, JSON Lines and TFRecord files, shuffled, tokenized (WordPiece, 10,000 pieces) and batched by
length, nothing else running; against the training step of a small text classifier (D=64, 2 blocks, 4 heads,
feed-forward 256, Adam) on such batches, about 32 rows each, held in memory. The ratio is the pipeline's rate to the
step's.

Second table: the training step of a causal language model of the same size on sequences of skewed lengths, in batches
of 32 padded to their longest, in batches by length, and packed into rows of 256; batches held in memory. Real tokens
are those that a loss is computed for; the loss is the mean over them, with the same weights and sequences, before
training.

Texts are random words with log-normal lengths (mean about 32, at most 254 words), and with `--text` also the lines of
a file. Times are medians over rounds in which all are run in turn, in one process; the load average of the machine is
printed with them.
"""

import csv
import dataclasses
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import tyro

from benchmarks.interleaved import median_seconds
from keras_attention.layers import TokenAndPositionEmbedding, TransformerBlock
from keras_attention.text import WordPieceTokenizer, train_word_piece_vocabulary
from keras_attention.training import (
    bucket_by_length,
    pack,
    padding_share,
    read_csv,
    read_json_lines,
    read_tfrecords,
    write_tfrecord_shards,
)

VOCABULARY, LENGTH, WIDTH, HEADS, INNER, CLASSES = 10_000, 256, 64, 4, 256, 8
BATCH, BOUNDARIES, TOKENS_PER_BATCH = 32, [8, 16, 32, 64, 128, LENGTH], 1024
READERS = {"csv": read_csv, "jsonl": read_json_lines, "tfrecord": read_tfrecords}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        rounds: How often each is run.
        rows: Rows of each file.
        sequences: Sequences that the language model is trained on.
        text: A file of real texts, one a line.
    """

    rounds: int = 5
    rows: int = 6_400
    sequences: int = 256
    text: Path | None = None


def random_texts(count):
    """Texts of made-up words, the frequent ones as frequent as in a language, and their vocabulary."""
    rng = np.random.default_rng(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = sorted({"".join(rng.choice(list(letters), rng.integers(2, 9))) for _ in range(12_000)})
    words = list(rng.permutation(words)[: VOCABULARY - 5 - 2 * len(letters)])
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *words]
    lengths = rng.lognormal(3.1, 0.8, size=count).astype(int).clip(1, LENGTH - 2)
    ranks = np.minimum(rng.zipf(1.3, size=lengths.sum()) - 1, len(words) - 1)
    drawn = np.split(np.array(words)[ranks], np.cumsum(lengths)[:-1])
    return [" ".join(text) for text in drawn], list(map(str, pieces))


def real_texts(path, count):
    """The lines of a file that hold words, again and again up to the number, and a vocabulary of theirs."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    vocabulary = train_word_piece_vocabulary(lines, VOCABULARY, show_progress=False)
    return [lines[i % len(lines)] for i in range(count)], vocabulary


def write_files(folder, texts):
    """The texts with a label each, in a file of each format; returns the paths by format."""
    rows = [{"text": text, "label": number % CLASSES} for number, text in enumerate(texts)]
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return {
        "csv": folder / "rows.csv",
        "jsonl": folder / "rows.jsonl",
        "tfrecord": write_tfrecord_shards(rows, folder / "rows"),
    }


def bucketed_batches(rows, tokenizer):
    """The pipeline: rows of text to batches of ids of like lengths."""

    def tokenize(rows):
        ids = tf.RaggedTensor.from_tensor(tokenizer(rows["text"]), padding=tokenizer.pad_id)
        return ids, rows["label"]

    rows = rows.batch(512).map(tokenize, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
    rows = rows.map(lambda ids, label: (ids, label))
    return bucket_by_length(rows, BOUNDARIES, TOKENS_PER_BATCH).prefetch(tf.data.AUTOTUNE)


class Classifier(keras.Model):
    """Token ids to the logits of a class."""

    def __init__(self):
        super().__init__()
        self.embedding = TokenAndPositionEmbedding(VOCABULARY, LENGTH, WIDTH)
        self.blocks = [TransformerBlock(HEADS, INNER) for _ in range(2)]
        self.pooling = keras.layers.GlobalAveragePooling1D()
        self.classes = keras.layers.Dense(CLASSES)

    def call(self, ids):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.classes(self.pooling(x))


class LanguageModel(keras.Model):
    """Token ids to the logits of the next token; packed sequences do not see one another."""

    def __init__(self):
        super().__init__()
        self.tokens = keras.layers.Embedding(VOCABULARY, WIDTH)
        self.positions = keras.layers.Embedding(LENGTH, WIDTH)
        self.blocks = [TransformerBlock(HEADS, INNER, causal=True, norm="pre") for _ in range(2)]
        self.norm = keras.layers.LayerNormalization()
        self.next_token = keras.layers.Dense(VOCABULARY)

    def call(self, tokens, positions, segment_ids, packed):
        x = self.tokens(tokens) + self.positions(positions)
        # Alone in its row, a sequence is kept from the padding to its right by being causal.
        mask = segment_ids[:, :, None] == segment_ids[:, None, :] if packed else None
        for block in self.blocks:
            x = block(x, attention_mask=mask)
        return self.next_token(self.norm(x))


def classifier_step():
    """A function of (ids, labels) that trains a classifier."""
    model = Classifier()
    model(np.ones((1, 4), "int32"))
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)])
    def step(ids, labels):
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(ids, training=True))
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return step


def language_model_steps():
    """Functions that evaluate and train one language model on a batch, padded (False) or packed (True)."""
    model = LanguageModel()
    model(*[np.zeros((1, 4), "int32")] * 3, packed=True)
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    signature = [tf.TensorSpec([None, None], tf.int32)] * 3

    def loss(tokens, positions, segment_ids, packed):
        logits = model(tokens, positions, segment_ids, packed=packed)[:, :-1]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tokens[:, 1:], logits)
        # The first token of a sequence is not what the one before it should foresee, nor is padding.
        is_next = (segment_ids[:, 1:] == segment_ids[:, :-1]) & (segment_ids[:, 1:] > 0)
        return tf.reduce_sum(tf.where(is_next, losses, 0.0)), tf.math.count_nonzero(is_next, dtype=tf.float32)

    def make(packed):
        @tf.function(input_signature=signature)
        def evaluate(*batch):
            return loss(*batch, packed)

        @tf.function(input_signature=signature)
        def train(*batch):
            with tf.GradientTape() as tape:
                total, count = loss(*batch, packed)
                mean = total / count
            optimizer.apply(tape.gradient(mean, model.trainable_variables), model.trainable_variables)
            return mean

        return evaluate, train

    return {packed: make(packed) for packed in (False, True)}


def compare_pipelines(config, name, texts, tokenizer):
    """Prints the first table."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder), texts)
        columns = {"text": "string", "label": "int32"}
        datasets = {
            format: bucketed_batches(READERS[format](paths[format], columns, shuffle_buffer=10_000), tokenizer)
            for format in READERS
        }
        batches = list(datasets["csv"])
        step = classifier_step()

        def read(format):
            return lambda: datasets[format].reduce(tf.constant(0), lambda count, batch: count + 1).numpy()

        def train():
            for batch in batches:
                loss = step(*batch)
            return loss.numpy()

        runs = {**{format: read(format) for format in READERS}, "training step": train}
        seconds = {name: pair[0] for name, pair in median_seconds(runs, config.rounds, warm_up=1).items()}
    for what, duration in seconds.items():
        rates = f"{len(texts) / duration:9.0f} {len(batches) / duration:9.1f}"
        print(f"{name:8} {what:14} {rates} {seconds['training step'] / duration:7.2f}", flush=True)


def compare_batches(config, name, texts, tokenizer):
    """Prints the second table."""
    ids = tf.RaggedTensor.from_tensor(tokenizer(texts[: config.sequences]), padding=tokenizer.pad_id)
    rows = tf.data.Dataset.from_tensor_slices(ids).map(lambda row: row)

    def as_packed(tokens):
        places = tf.broadcast_to(tf.range(tf.shape(tokens)[1]), tf.shape(tokens))
        return {"tokens": tokens, "positions": places, "segment_ids": tf.cast(tokens != tokenizer.pad_id, tf.int32)}

    ways = {
        "padded": rows.padded_batch(BATCH).map(as_packed),
        "by length": bucket_by_length(rows, BOUNDARIES, TOKENS_PER_BATCH).map(as_packed),
        "packed": pack(rows, LENGTH).batch(TOKENS_PER_BATCH // LENGTH),
    }
    shares = {way: padding_share(dataset.map(lambda row: row["tokens"])) for way, dataset in ways.items()}
    batches = {
        way: [(row["tokens"], row["positions"], row["segment_ids"]) for row in dataset] for way, dataset in ways.items()
    }
    steps = language_model_steps()
    losses = {}
    for way in ways:
        totals = np.array([steps[way == "packed"][0](*batch) for batch in batches[way]], np.float64).sum(0)
        losses[way] = totals[0] / totals[1]
        assert totals[1] == ids.flat_values.shape[0] - ids.nrows()

    def train(way):
        def run():
            for batch in batches[way]:
                loss = steps[way == "packed"][1](*batch)
            return loss.numpy()

        return run

    seconds = median_seconds({way: train(way) for way in ways}, config.rounds, warm_up=1)
    tokens = float(totals[1])
    for way, (duration, _) in seconds.items():
        print(
            f"{name:8} {way:10} {len(batches[way]):8d} {shares[way]:8.3f} {tokens / duration:14.0f} "
            f"{seconds['padded'][0] / duration:7.2f} {losses[way]:10.6f} {abs(losses[way] - losses['padded']):9.1e}",
            flush=True,
        )


def main():
    config = tyro.cli(Config, description=__doc__)
    keras.utils.set_random_seed(0)
    sources = {"random": random_texts(config.rows)}
    if config.text is not None:
        sources["real"] = real_texts(config.text, config.rows)
    sources = {
        name: (texts, WordPieceTokenizer(vocabulary, sequence_length=LENGTH))
        for name, (texts, vocabulary) in sources.items()
    }
    print(f"{'texts':8} {'what':14} {'rows/s':>9} {'batches/s':>9} {'ratio':>7}")
    for name, source in sources.items():
        compare_pipelines(config, name, *source)
    print(f"\n{'texts':8} {'batches':10} {'number':>8} {'padding':>8} {'real tokens/s':>14} {'ratio':>7} ", end="")
    print(f"{'loss':>10} {'differs':>9}")
    for name, source in sources.items():
        compare_batches(config, name, *source)
    print("\nload average: " + ", ".join(f"{load:.2f}" for load in os.getloadavg()))


if __name__ == "__main__":
    main()
