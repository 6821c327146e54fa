"""A text classifier from a CSV file, trained on one device, several, or several hosts, by the same program.

    python deploy/multi_worker/train.py --data train.csv --output runs/intents --training.epochs 20

Every worker reads the file and takes its rows of every batch; the chief writes. To use it for something of your own,
change `read` and `build`.
"""

import csv
import dataclasses
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import tyro

from keras_attention.models import TextEncoder
from keras_attention.text import WordPieceTokenizer, train_word_piece_vocabulary
from keras_attention.training import OptimizerConfig, TrainingConfig, fit, make_optimizer, make_strategy, read_cluster


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a text classifier on a CSV file.

    Attributes:
        data: A CSV file with a header.
        output: The folder for the model, its vocabulary, its labels and the history.
        text: The column of the texts.
        label: The column of the classes.
        validation_share: The part of the rows that is not trained on.
        batch_size: The rows of an update, on all workers together.
        sequence_length: The most tokens of a text.
        vocabulary_size: The most word pieces to learn.
        hidden_dim: The width of the encoder.
        num_layers: Its blocks.
        dropout: The share of values that are dropped in training.
        training: How and where to train.
        optimizer: What makes the steps.
    """

    data: Path
    output: Path
    text: str = "text"
    label: str = "category"
    validation_share: float = 0.1
    batch_size: int = 32
    sequence_length: int = 64
    vocabulary_size: int = 4000
    hidden_dim: int = 64
    num_layers: int = 2
    dropout: float = 0.1
    training: TrainingConfig = dataclasses.field(default_factory=lambda: TrainingConfig(epochs=10))
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(schedule="inverse_square_root", warmup_steps=100)
    )


def read(config):
    """The texts and the classes of the file.

    Args:
        config: `Config`.

    Returns:
        (texts, classes): lists of str.

    Raises:
        ValueError: with the file and the line, if a row has no text or no class.
    """
    with config.data.open(encoding="utf-8-sig", newline="") as file:
        reader, texts, classes = csv.DictReader(file), [], []
        for row in reader:
            text, label = row.get(config.text), row.get(config.label)
            if not text or not label:
                raise ValueError(
                    f"{config.data}:{reader.line_num}: a row needs a text in `{config.text}` and a class in "
                    f"`{config.label}`. Received: {row}"
                )
            texts.append(text)
            classes.append(label)
    if not texts:
        raise ValueError(f"`data` must have rows. Received: {config.data} with none")
    return texts, classes


def build(config, tokenizer, labels):
    """The model, compiled."""
    ids = keras.Input((None,), dtype="int32")
    states = TextEncoder(
        vocabulary_size=len(tokenizer.vocabulary),
        sequence_length=config.sequence_length,
        num_layers=config.num_layers,
        num_heads=4,
        hidden_dim=config.hidden_dim,
        intermediate_dim=4 * config.hidden_dim,
        dropout=config.dropout,
    )(ids)
    pooled = keras.layers.GlobalAveragePooling1D()(states)
    model = keras.Model(ids, keras.layers.Dense(len(labels), dtype="float32")(pooled))
    model.compile(
        make_optimizer(config.optimizer),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def main(config):
    """Trains, and on the chief writes what came of it."""
    make_strategy(config.training.strategy)  # several workers must find each other before TensorFlow does anything
    texts, classes = read(config)
    tokenizer = WordPieceTokenizer(
        train_word_piece_vocabulary(texts, config.vocabulary_size, show_progress=False),
        sequence_length=config.sequence_length,
    )
    labels = sorted(set(classes))
    ids = tokenizer(texts).numpy()
    numbers = np.searchsorted(labels, classes).astype("int32")
    order = np.random.default_rng(0).permutation(len(texts))
    held_out, rest = np.split(order, [round(config.validation_share * len(texts))])

    def dataset(rows):
        return tf.data.Dataset.from_tensor_slices((ids[rows], numbers[rows]))

    trained = fit(
        lambda: build(config, tokenizer, labels),
        dataset(rest).shuffle(len(rest), seed=0).batch(config.batch_size),
        dataset(held_out).batch(config.batch_size) if len(held_out) else None,
        config.training,
    )
    if not read_cluster(os.environ.get("TF_CONFIG")).is_chief:
        return
    config.output.mkdir(parents=True, exist_ok=True)
    trained.model.save(config.output / "model.keras")
    (config.output / "vocab.txt").write_text("\n".join(tokenizer.vocabulary) + "\n", encoding="utf-8")
    (config.output / "labels.json").write_text(json.dumps(labels, ensure_ascii=False))
    (config.output / "history.json").write_text(json.dumps(trained.history.history))


if __name__ == "__main__":
    main(tyro.cli(Config))
