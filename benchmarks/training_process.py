"""One process of `benchmarks.training`: trains an epoch for each line that it reads, and prints a step's seconds."""

import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import tensorflow as tf

from benchmarks.training import Config
from keras_attention.layers import TransformerBlock
from keras_attention.training import OptimizerConfig, TrainingConfig, fit, make_optimizer, make_strategy

VOCABULARY, CLASSES = 5000, 20
STRATEGIES = {"one device": "one_device", "two replicas": "mirrored", "two workers": "multi_worker"}


class Turns(keras.callbacks.Callback):
    """Waits for its turn before each epoch, and says how long the epoch took."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_epoch_begin(self, epoch, logs=None):
        if not sys.stdin.readline():
            raise SystemExit("the benchmark has ended")
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        print((time.perf_counter() - self.start) / self.steps, flush=True)


def build(config):
    """The text classifier that all train."""
    ids = keras.Input((config.length,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, config.width)(ids)
    for _ in range(config.layers):
        x = TransformerBlock(num_heads=4, intermediate_dim=4 * config.width, norm="pre")(x)
    model = keras.Model(ids, keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling1D()(x)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(make_optimizer(OptimizerConfig(global_clipnorm=1.0)), loss, metrics=["accuracy"])
    return model


def dataset(config):
    """The batches, the same in every epoch, kept in memory."""
    rows = config.batch * config.steps
    ids = tf.random.stateless_uniform((rows, config.length), (0, 1), 1, VOCABULARY, tf.int32)
    classes = tf.random.stateless_uniform((rows,), (0, 2), 0, CLASSES, tf.int32)
    return tf.data.Dataset.from_tensor_slices((ids, classes)).batch(config.batch).cache()


def main(name, config):
    epochs, turns = config.rounds + 1, Turns(config.steps)
    if name == "Keras's fit":
        build(config).fit(dataset(config), epochs=epochs, callbacks=[turns], shuffle=False, verbose=0)
        return
    if name == "two replicas":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    make_strategy(STRATEGIES[name])
    training = TrainingConfig(strategy=STRATEGIES[name], epochs=epochs, progress=False)
    fit(lambda: build(config), lambda: dataset(config), None, training, [turns])


if __name__ == "__main__":
    main(sys.argv[1], Config(**json.loads(sys.argv[2])))
