"""Training steps of one attention layer: time and memory, against Keras and PyTorch, and against its own plain form.

    python -m benchmarks.attention [--rounds 5] [--groups plain_8192 bias_8192 ...]

D=256, 8 heads, float32; a step is the forward and backward pass to the input and all weights: TensorFlow in one
tf.function, PyTorch (where it is installed) eager. Times are medians over rounds in which the members of a group are
called in turn, in one process, after their first call, which is given apart; the ratio is to the first of the group.
Memory is the growth of the peak resident size over one step, each in a process of its own; "oom" ran out of it.
"""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

# Threads that spin while they wait would slow down whoever is called next.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tyro

from benchmarks.interleaved import median_seconds

WIDTH, HEADS = 256, 8


@dataclasses.dataclass(frozen=True)
class Step:
    """Whose layer, on what, with which options."""

    length: int
    batch: int = 1
    whose: Literal["ours", "keras", "torch"] = "ours"
    causal: bool = False
    padding: bool = False
    bias: Literal["key", "alibi"] | None = None
    dropout: float = 0.0
    window: int | None = None


def competitors(*args, **kwargs):
    return {whose: Step(*args, whose=whose, **kwargs) for whose in ("ours", "keras", "torch")}


GROUPS = {
    "short_32x128": competitors(128, batch=32),
    "plain_8192": competitors(8192),
    "causal_8192": competitors(8192, causal=True),
    "bias_8192": {
        "plain": Step(8192),
        "padding": Step(8192, padding=True),
        "padding, key bias": Step(8192, padding=True, bias="key"),
        "padding, key bias, dropout": Step(8192, padding=True, bias="key", dropout=0.1),
        "padding, ALiBi": Step(8192, padding=True, bias="alibi"),
        "padding, ALiBi, dropout": Step(8192, padding=True, bias="alibi", dropout=0.1),
    },
    "window_256": {"8192": Step(8192, window=256), "32768": Step(32768, window=256)},
    "plain_32768": {"ours": Step(32768)},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        groups: Names of groups; all of them if none is given.
        rounds: Calls of each member of a group.
        measure_memory: For the processes that this program starts: a group and a member.
    """

    groups: Annotated[tuple[str, ...], tyro.conf.arg(metavar=" ".join(GROUPS))] = ()
    rounds: int = 5
    measure_memory: tuple[str, str] | None = None


def make_step(step):
    """A function without arguments that runs one training step."""
    return make_torch_step(step) if step.whose == "torch" else make_keras_step(step)


def make_keras_step(step):
    import keras
    import tensorflow as tf

    from keras_attention.biases import ALiBi
    from keras_attention.layers import MultiHeadAttention

    kind = keras.layers.MultiHeadAttention if step.whose == "keras" else MultiHeadAttention
    layer = kind(HEADS, WIDTH // HEADS, dropout=step.dropout, sliding_window=step.window)
    x = tf.random.stateless_normal((step.batch, step.length, WIDTH), seed=(0, 1))
    layer.build(x.shape, x.shape)
    arguments = {"use_causal_mask": step.causal}
    if step.padding:
        arguments["value_mask"] = tf.range(step.length)[None] < step.length * 9 // 10
    if step.bias == "alibi":
        arguments["bias"] = ALiBi(HEADS)
    elif step.bias == "key":
        arguments["bias"] = tf.random.stateless_normal((step.batch, 1, 1, step.length), seed=(2, 3))
    sources = [x, *[weight.value for weight in layer.trainable_weights]]

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(layer(x, x, training=True, **arguments)))
        return tape.gradient(loss, sources)

    return lambda: [gradient.numpy() for gradient in run()]


def make_torch_step(step):
    import torch

    torch.set_num_threads(os.cpu_count())
    layer = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    x = torch.randn(step.batch, step.length, WIDTH, requires_grad=True)
    # Only `is_causal` with the mask given takes PyTorch's fused kernel.
    mask = torch.nn.Transformer.generate_square_subsequent_mask(step.length) if step.causal else None

    def run():
        layer.zero_grad()
        x.grad = None
        output = layer(x, x, x, need_weights=False, attn_mask=mask, is_causal=step.causal)[0]
        torch.sin(output).sum().backward()

    return run


def peak_kibibytes():
    """This process's peak resident size. (`ru_maxrss` would begin with the size of the process that started it.)"""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def peak_gibibytes(group, member):
    """The peak over one step in a process of its own, or "oom"."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.attention", "--measure-memory", group, member],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{json.loads(done.stdout):.2f}" if done.returncode == 0 else "oom"


def main():
    config = tyro.cli(Config, description=__doc__)
    if config.measure_memory:
        group, member = config.measure_memory
        run = make_step(GROUPS[group][member])
        before = peak_kibibytes()
        run()
        print((peak_kibibytes() - before) / 2**20)
        return
    print(f"{'group':14} {'member':28} {'first s':>8} {'s':>8} {'ratio':>6} {'GiB':>6}")
    for name in config.groups or GROUPS:
        steps = {
            member: step
            for member, step in GROUPS[name].items()
            if step.whose != "torch" or importlib.util.find_spec("torch")
        }
        # Memory first: processes of their own, before this one holds what the steps need.
        memory = {member: peak_gibibytes(name, member) for member in steps}
        fitting = {member: make_step(step) for member, step in steps.items() if memory[member] != "oom"}
        results = median_seconds(fitting, config.rounds, warm_up=1)
        base = next(iter(results.values()))[0]
        for member, (seconds, first) in results.items():
            print(
                f"{name:14} {member:28} {first:8.2f} {seconds:8.4f} {seconds / base:6.2f} {memory[member]:>6}",
                flush=True,
            )
        for member in steps.keys() - fitting.keys():
            print(f"{name:14} {member:28} {'-':>8} {'-':>8} {'-':>6} {'oom':>6}", flush=True)


if __name__ == "__main__":
    main()
