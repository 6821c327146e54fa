"""One process of a training run: `python -m tests.training.worker spec.json`, which says what to train and how.

A second strategy in one process breaks the collectives of the first, so every run of a test is a process of its own.
"""

import json
import os
import signal
import sys

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf

import keras_attention.training
from keras_attention.layers import TransformerBlock
from keras_attention.training import OptimizerConfig, TrainingConfig, fit, make_optimizer, make_strategy

VOCABULARY, WIDTH, EXAMPLES = 32, 16, 43


def examples(count=EXAMPLES, seed=0):
    """Ids, with much padding in some rows and none in others, and for each the id that follows."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, VOCABULARY, size=(count, 7))
    lengths = rng.integers(2, 8, size=count)
    ids[np.arange(7) >= lengths[:, np.newaxis]] = 0
    return ids.astype("int32"), (ids * 5 % VOCABULARY).astype("int32")


def dataset(batch=8, shuffle=False, context=None, counts=None, count=EXAMPLES, seed=0, repeat=1):
    """Batches of a global batch size.

    Args:
        batch: int.
        shuffle: bool, anew in every pass.
        context: `tf.distribute.InputContext`, for the batches of one of two workers.
        counts: the examples of each of two workers; without a context, batches hold what theirs hold together.
        count: int, the examples.
        seed: int, of the examples.
        repeat: int, how often they come one after the other.
    """
    arrays = tuple(np.tile(array, (repeat, 1)) for array in examples(count, seed))
    if counts is None:
        data = tf.data.Dataset.from_tensor_slices(arrays)
        if shuffle:
            data = data.shuffle(count, seed=1)
        return data.batch(batch)
    parts = [tuple(array[: counts[0]] for array in arrays), tuple(array[counts[0] :] for array in arrays)]
    assert [len(part[0]) for part in parts] == list(counts)
    half = batch // 2
    if context is not None:
        return tf.data.Dataset.from_tensor_slices(parts[context.input_pipeline_id]).batch(half)

    def together():
        for start in range(0, max(counts), half):
            yield tuple(np.concatenate([part[i][start : start + half] for part in parts]) for i in range(2))

    spec = tf.TensorSpec([None, 7], tf.int32)
    return tf.data.Dataset.from_generator(together, output_signature=(spec, spec))


def build(optimizer, dropout=0.0, heads=1, layers=2, rematerialize=False, activity_regularizer=None):
    """An encoder that says an id at every position."""
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, WIDTH, mask_zero=True, name="tokens")(ids)
    for _ in range(layers):
        options = {"dropout": dropout, "norm": "pre", "rematerialize": rematerialize}
        x = TransformerBlock(num_heads=2, intermediate_dim=32, **options)(x)
    options = {"dtype": "float32", "activity_regularizer": activity_regularizer}
    outputs = [keras.layers.Dense(VOCABULARY, name=f"head_{i}", **options)(x) for i in range(heads)]
    model = keras.Model(ids, outputs[0] if heads == 1 else outputs)
    options = {"weighted_metrics" if heads == 1 else "metrics": ["accuracy"] * heads}
    if heads > 1:
        options["loss_weights"] = [1.0 + i for i in range(heads)]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(make_optimizer(OptimizerConfig(**optimizer)), [loss] * heads if heads > 1 else loss, **options)
    return model


class Recorder(keras.callbacks.Callback):
    """The mean loss of the epoch so far after each step, and a death at a step if wanted."""

    def __init__(self, path, signals):
        super().__init__()
        self.path, self.signals, self.steps = path, signals, 0

    def get_state(self):
        return {"steps": self.steps}

    def set_state(self, state):
        self.steps = state["steps"]

    def on_train_batch_end(self, batch, logs=None):
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": self.steps, **{name: float(value) for name, value in logs.items()}}) + "\n")
        self.steps += 1
        if name := self.signals.get(str(self.steps)):
            os.kill(os.getpid(), getattr(signal, name))


def run(spec, strategy, index, output):
    """One fit; its losses by step, weights, history and error come to files that begin with `output`."""
    if index:
        spec = {**spec, **spec.get("others", {})}
    data = dict(spec.get("data", {}))

    def own(context):
        return dataset(context=context, **data)

    train = own if data.pop("own", False) else dataset(**data)
    try:
        trained = fit(
            lambda: build(spec.get("optimizer", {}), **spec.get("model", {})),
            train,
            dataset(count=13, seed=1) if spec.get("validation", True) else None,
            TrainingConfig(strategy=strategy, progress=False, **spec.get("config", {})),
            [Recorder(f"{output}.jsonl", spec.get("signals", {}) if index == spec.get("who", 0) else {})],
            [getattr(keras_attention.training, name)(**options) for name, options in spec.get("regularizers", [])],
        )
    except (ValueError, OSError) as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    else:
        np.savez(f"{output}.npz", *trained.model.get_weights())
        result = {"history": trained.history.history}
    with open(f"{output}.json", "w") as file:
        json.dump(result, file)


def main(path):
    with open(path) as file:
        spec = json.load(file)
    if spec["strategy"] == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    tf.config.experimental.enable_op_determinism()
    make_strategy(spec["strategy"])
    for name, one in spec["runs"].items():
        run(one, spec["strategy"], spec["index"], f"{spec['output']}-{name}")


if __name__ == "__main__":
    main(sys.argv[1])
