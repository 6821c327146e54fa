"""Training steps of one attention layer against Keras's: time and memory.

    python -m benchmarks.attention [--pairs 5] [--cases plain_8192 causal_8192 ...]

D=256, 8 heads, float32; a step is the forward and backward pass to the input and all weights in one tf.function. Times
are medians over interleaved calls in one process, Keras then ours, after the first call of each (ours is given apart);
memory is the growth of the peak resident size over one step, each in a process of its own. "oom" is a step that ran out
of memory, "-" what was not run: Keras has no step at 32,768.
"""

import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.interleaved import seconds


@dataclasses.dataclass(frozen=True)
class Case:
    """One shape with its options: batch, length, and what both layers are built and called with."""

    batch: int
    length: int
    causal: bool = False
    padding: bool = False
    bias: bool = False
    dropout: float = 0.0
    window: int | None = None
    keras: bool = True


CASES = {
    "short_32x128": Case(32, 128),
    "plain_8192": Case(1, 8192),
    "causal_8192": Case(1, 8192, causal=True),
    "padding_bias_8192": Case(1, 8192, padding=True, bias=True, keras=False),
    "padding_bias_dropout_8192": Case(1, 8192, padding=True, bias=True, dropout=0.1, keras=False),
    "window_8192": Case(1, 8192, window=256, keras=False),
    "plain_32768": Case(1, 32768, keras=False),
    "window_32768": Case(1, 32768, window=256, keras=False),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        cases: Names of cases; all of them if none is given.
        pairs: Interleaved calls of each layer.
        measure_memory: For the processes that this program starts: a case and "keras" or "ours".
    """

    cases: Annotated[tuple[str, ...], tyro.conf.arg(metavar=" ".join(CASES))] = ()
    pairs: int = 5
    measure_memory: tuple[str, str] | None = None


def make_step(which, case):
    """A function without arguments that runs one training step."""
    import keras
    import tensorflow as tf

    from keras_attention.biases import ALiBi
    from keras_attention.layers import MultiHeadAttention

    kind = keras.layers.MultiHeadAttention if which == "keras" else MultiHeadAttention
    layer = kind(8, 32, dropout=case.dropout, sliding_window=case.window)
    x = tf.random.stateless_normal((case.batch, case.length, 256), seed=(0, 1))
    layer.build(x.shape, x.shape)
    arguments = {"use_causal_mask": case.causal}
    if case.padding:
        arguments["value_mask"] = tf.range(case.length)[None] < case.length * 9 // 10
    if case.bias:
        arguments["bias"] = ALiBi(8)
    sources = [x, *[weight.value for weight in layer.trainable_weights]]

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(layer(x, x, training=True, **arguments)))
        return tape.gradient(loss, sources)

    def run():
        for gradient in step():
            gradient.numpy()

    return run


def peak_kibibytes():
    """This process's peak resident size. (`ru_maxrss` would begin with the size of the process that started it.)"""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def peak_gibibytes(name, which):
    """The peak over one step in a process of its own, or "oom"."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.attention", "--measure-memory", name, which],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{json.loads(done.stdout):.2f}" if done.returncode == 0 else "oom"


def main():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    config = tyro.cli(Config, description=__doc__)
    if config.measure_memory:
        name, which = config.measure_memory
        run = make_step(which, CASES[name])
        before = peak_kibibytes()
        run()
        print((peak_kibibytes() - before) / 2**20)
        return
    print(f"{'case':26} {'first call':>10} {'ours s':>8} {'keras s':>8} {'ratio':>6} {'ours GiB':>9} {'keras GiB':>9}")
    for name in config.cases or CASES:
        case = CASES[name]
        runs = {which: make_step(which, case) for which in (("keras", "ours") if case.keras else ("ours",))}
        first = {which: seconds(run) for which, run in runs.items()}
        times = {which: [] for which in runs}
        for _ in range(config.pairs):
            for which, run in runs.items():
                times[which].append(seconds(run))
        medians = {which: statistics.median(values) for which, values in times.items()}
        ratio = f"{medians['ours'] / medians['keras']:.2f}" if case.keras else "-"
        theirs = f"{medians['keras']:.4f}" if case.keras else "-"
        memory = {which: peak_gibibytes(name, which) for which in runs}
        print(
            f"{name:26} {first['ours']:10.2f} {medians['ours']:8.4f} {theirs:>8} {ratio:>6} {memory['ours']:>9} "
            f"{memory.get('keras', '-'):>9}",
            flush=True,
        )


if __name__ == "__main__":
    main()
