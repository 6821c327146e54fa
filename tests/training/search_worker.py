"""A search in a process of its own, to be killed: `python -m tests.training.search_worker algorithm folder step`."""

import os
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from keras_attention.training import TrainingConfig, search

EPOCHS = 3


class KillAt(keras.callbacks.Callback):
    """Kills this process after so many batches of all trials together."""

    steps = 0

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        KillAt.steps += 1
        if KillAt.steps == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def data(batch):
    """Points on a noisy plane."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 3)).astype("float32")
    y = (x @ [[1.0], [-2.0], [0.5]] + rng.normal(scale=0.1, size=(24, 1))).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(24, seed=1).batch(batch)


def make_setting(callbacks=(), builds=None, checkpoint_every_steps=None):
    """A setting whose hyper-parameters reach the model and the batches.

    Args:
        callbacks: of each run.
        builds: list that is told the hyper-parameters of each model that is made, or None.
        checkpoint_every_steps: int or None.
    """

    def setting(hp):
        rate, batch = hp.Choice("learning_rate", [0.01, 0.03, 0.1]), hp.Choice("batch_size", [6, 12])

        def build():
            if builds is not None:
                builds.append(dict(hp.values))
            layers = [keras.layers.Dense(4), keras.layers.Dropout(0.1, seed=3), keras.layers.Dense(1)]
            model = keras.Sequential([keras.Input((3,)), *layers])
            model.compile(keras.optimizers.SGD(rate), "mse", metrics=["mae"])
            return model

        config = TrainingConfig(
            epochs=EPOCHS,
            checkpoint_folder="replaced",
            checkpoint_every_steps=checkpoint_every_steps,
            strategy="one_device",
            progress=False,
        )
        return {"build": build, "train": data(batch), "validation": data(12), "config": config, "callbacks": callbacks}

    return setting


def main(algorithm, folder, step):
    setting = make_setting([KillAt(int(step))], checkpoint_every_steps=1)
    search(setting, folder, algorithm)


if __name__ == "__main__":
    main(*sys.argv[1:])
