"""Attention layers and transformer blocks on short sequences: ours, Keras's, KerasHub's and PyTorch's.

    pip install --editable '.[benchmarks]'
    python -m benchmarks.blocks [--rounds 30] [--batch 32] [--length 128]

D=256, 8 heads, feed-forward 1024 with ReLU, post-norm, float32, no dropout. "forward" is inference, "step" the forward
and backward pass to the input and all weights; TensorFlow in one tf.function, PyTorch eager as its users run it. Times
are medians over rounds in which all competitors are called in turn, in one process; the ratio is ours to theirs.
"""

import dataclasses
import importlib.util
import os

# Threads that spin while they wait would slow down whoever is called next.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tyro

from benchmarks.interleaved import median_seconds

WIDTH, HEADS, INNER = 256, 8, 1024


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        rounds: Calls of each competitor.
        batch: B.
        length: T.
    """

    rounds: int = 30
    batch: int = 32
    length: int = 128


def keras_runs(layers, config, trains):
    """name -> run of Keras layers, `layers` being name -> (layer, call)."""
    import tensorflow as tf

    x = tf.random.stateless_normal((config.batch, config.length, WIDTH), seed=(0, 1))

    def make(layer, call):
        call(layer, x)  # builds it
        sources = [x, *[weight.value for weight in layer.trainable_weights]]

        @tf.function
        def run():
            if not trains:
                return [call(layer, x)]
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.sin(call(layer, x)))
            return tape.gradient(loss, sources)

        return lambda: [tensor.numpy() for tensor in run()]

    return {name: make(*pair) for name, pair in layers.items()}


def torch_run(module, call, config, trains):
    """A run of a PyTorch module."""
    import torch

    torch.set_num_threads(os.cpu_count())
    x = torch.randn(config.batch, config.length, WIDTH, requires_grad=trains)
    module.train(trains)

    def run():
        if not trains:
            with torch.inference_mode():
                call(module, x)
            return
        module.zero_grad()
        x.grad = None
        torch.sin(call(module, x)).sum().backward()

    return run


def attention_runs(config, trains):
    """Self-attention of one layer."""
    import keras

    from keras_attention.layers import MultiHeadAttention

    def attend(layer, x):
        return layer(x, x)

    size = WIDTH // HEADS
    runs = keras_runs(
        {
            "ours": (MultiHeadAttention(HEADS, size), attend),
            "keras": (keras.layers.MultiHeadAttention(HEADS, size), attend),
        },
        config,
        trains,
    )
    if importlib.util.find_spec("torch"):
        import torch

        module = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        runs["torch"] = torch_run(module, lambda m, x: m(x, x, x, need_weights=False)[0], config, trains)
    return runs


def block_runs(config, trains):
    """One encoder block."""
    from keras_attention.layers import TransformerBlock

    def apply(layer, x):
        return layer(x)

    layers = {"ours": (TransformerBlock(HEADS, INNER, activation="relu"), apply)}
    if importlib.util.find_spec("keras_hub"):
        import keras_hub

        layers["keras_hub"] = (keras_hub.layers.TransformerEncoder(INNER, HEADS), apply)
    runs = keras_runs(layers, config, trains)
    if importlib.util.find_spec("torch"):
        import torch

        module = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, dropout=0.0, batch_first=True)
        runs["torch"] = torch_run(module, lambda m, x: m(x), config, trains)
    return runs


def main():
    config = tyro.cli(Config, description=__doc__)
    print(f"{'case':20} {'competitor':10} {'ms':>8} {'ours ms':>8} {'ratio':>6}")
    for case, make in (("attention", attention_runs), ("block", block_runs)):
        for trains in (False, True):
            medians = {name: pair[0] for name, pair in median_seconds(make(config, trains), config.rounds).items()}
            ours = medians.pop("ours")
            for name, theirs in medians.items():
                what = f"{case} {'step' if trains else 'forward'}"
                print(f"{what:20} {name:10} {theirs * 1e3:8.1f} {ours * 1e3:8.1f} {ours / theirs:6.2f}", flush=True)


if __name__ == "__main__":
    main()
