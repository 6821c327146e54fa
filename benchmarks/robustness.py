"""What adversarial training and augmentation do for a classifier that is asked with typing errors: BANKING77.

    KERAS_ATTENTION_DATA=... python -m benchmarks.robustness [--seeds 3] [--epochs 12] [--validation]

A small encoder (one layer, 64 wide, WordPieces of the training questions) is trained from scratch on 1,500 questions in
banking77/train.csv, drawn once, and asked the 3,080 of test.csv, as they are and with noise. Prints the accuracy of
each way of training, its mean and standard deviation over seeds, and the time of a training. With --validation 1,000
other questions of train.csv stand in for the test.
"""

import argparse
import csv
import os
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_attention.models import TextEncoder
from keras_attention.text import CharacterNoise, WordNoise, WordPieceTokenizer, augment, train_word_piece_vocabulary
from keras_attention.training import (
    FastGradientMethod,
    OptimizerConfig,
    RDrop,
    TrainingConfig,
    fit,
    make_optimizer,
    robustness_report,
)

_NOISES = [CharacterNoise(0.05), WordNoise(0.05)]
_METHOD = FastGradientMethod("embedding_norm", epsilon=1.0)
# The noises to train with, and the regularisers.
_WAYS = {
    "plain": ((), ()),
    "FGM": ((), [_METHOD]),
    "augmentation": (_NOISES, ()),
    "FGM and augmentation": (_NOISES, [_METHOD]),
    "R-Drop": ((), [RDrop(1.0)]),
}
_ASKED = {
    "typos 5 %": CharacterNoise(0.05),
    "typos 10 %": CharacterNoise(0.10),
    "words deleted 20 %": WordNoise(0.20, ("delete",)),
}
_BATCH = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--ways", nargs="*", choices=_WAYS, default=list(_WAYS))
    options = parser.parse_args()
    if "KERAS_ATTENTION_DATA" not in os.environ:
        sys.exit("set KERAS_ATTENTION_DATA to the folder that holds banking77/")
    folder = Path(os.environ["KERAS_ATTENTION_DATA"]) / "banking77"
    train, test = _read(folder / "train.csv"), _read(folder / "test.csv")
    drawn = [train[i] for i in np.random.default_rng(0).permutation(len(train))]
    train, test = drawn[:1500], drawn[1500:2500] if options.validation else test
    names = sorted({name for _, name in train})
    vocabulary = train_word_piece_vocabulary([text for text, _ in train], 2000)
    tokenizer = WordPieceTokenizer(vocabulary, sequence_length=48)

    print(f"{'trained with':22}{'as it is':>16}" + "".join(f"{name:>20}" for name in _ASKED) + f"{'seconds':>10}")
    for way in options.ways:
        runs = [_run(_WAYS[way], train, test, names, tokenizer, seed, options.epochs) for seed in range(options.seeds)]
        mean, spread = np.mean(runs, 0), np.std(runs, 0)
        cells = "".join(
            f"{m:{w}.3f} ± {s:.3f}" for m, s, w in zip(mean[:-1], spread[:-1], (8, 12, 12, 12), strict=True)
        )
        print(f"{way:22}{cells}{mean[-1]:10.1f}", flush=True)


def _read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def _run(way, train, test, names, tokenizer, seed, epochs):
    """The accuracies as it is and under each noise, and the seconds of the training."""
    noises, regularizers = way
    texts, labels = [text for text, _ in train], [names.index(name) for _, name in train]
    tf.random.set_seed(seed)
    data = tf.data.Dataset.from_tensor_slices((texts, labels)).shuffle(len(texts), seed=seed)
    if noises:
        data = augment(data, noises, seed)
    data = data.batch(_BATCH).map(lambda texts, labels: (tokenizer(texts), labels), tf.data.AUTOTUNE).prefetch(4)
    steps = epochs * -(-len(texts) // _BATCH)

    def build():
        ids = keras.Input((None,), dtype="int32")
        encoder = TextEncoder(
            len(tokenizer.vocabulary), 48, 1, 4, 64, 128, dropout=0.1, num_segments=0, norm="pre", seed=seed
        )
        x = keras.layers.GlobalAveragePooling1D()(encoder(ids))
        model = keras.Model(ids, keras.layers.Dense(len(names))(keras.layers.Dropout(0.1, seed=seed)(x)))
        optimizer = OptimizerConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=steps // 10, total_steps=steps)
        model.compile(make_optimizer(optimizer), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    begin = time.monotonic()
    config = TrainingConfig(epochs=epochs, seed=seed, progress=False)
    model = fit(build, data, config=config, regularizers=regularizers).model
    seconds = time.monotonic() - begin

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def classify(texts):
        return tf.argmax(model(tokenizer(texts)), -1)

    def predict(texts):
        return np.concatenate([classify(texts[i : i + 256]) for i in range(0, len(texts), 256)])

    report = robustness_report(predict, [t for t, _ in test], [names.index(n) for _, n in test], _ASKED, seeds=2)
    return [*(row.accuracy for row in report.rows), seconds]


if __name__ == "__main__":
    main()
