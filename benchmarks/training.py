"""Training steps a second: one device, two replicas, two workers, and Keras's own `fit` on one device.

    pip install --editable '.[benchmarks]'
    python -m benchmarks.training [--rounds 10] [--steps 20] [--width 128]

The same text classifier (token embeddings, pre-norm transformer blocks, no dropout, AdamW with a global clipnorm) on
the same batches in all of them, float32, everything in memory. Each competitor has processes of its own, which take
turns: in each round each trains one epoch of so many steps while the others wait. The first epoch, in which graphs are
traced, does not count. Times are medians over rounds; the ratio is that of the time of a step to one device's.

Replicas and workers share here the cores that one device has to itself (the replicas are two virtual CPUs of one
process), so they cannot be faster: the ratio shows what it costs to share a batch out, to sum gradients and to agree on
the next step. On several GPUs or hosts the same code divides the work of a batch by their number.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys

import tyro

from benchmarks.serving_processes import free_port

COMPETITORS = {"one device": 1, "two replicas": 1, "two workers": 2, "Keras's fit": 1}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        rounds: Epochs that are timed.
        steps: Steps of an epoch.
        batch: B, of an update, on all devices together.
        length: T.
        width: D.
        layers: Transformer blocks.
    """

    rounds: int = 10
    steps: int = 20
    batch: int = 32
    length: int = 64
    width: int = 128
    layers: int = 2


class Competitor:
    """The processes of one way of training.

    Args:
        name: str, a key of `COMPETITORS`.
        config: `Config`.
        stack: `contextlib.ExitStack` that ends them.
    """

    def __init__(self, name, config, stack):
        count = COMPETITORS[name]
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(count)]
        self._processes = []
        for index in range(count):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.training_process", name, json.dumps(dataclasses.asdict(config))],
                env={**os.environ, **({"TF_CONFIG": json.dumps(task)} if count > 1 else {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if index == 0 else subprocess.DEVNULL,
                text=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            self._processes.append(process)

    def epoch(self):
        """Lets it train one epoch; returns the seconds a step."""
        for process in self._processes:
            process.stdin.write("\n")
            process.stdin.flush()
        lines = [process.stdout.readline() for process in self._processes]
        if not all(lines):
            raise SystemExit("a process of the benchmark has ended: see above")
        return float(lines[0])


def main():
    config = tyro.cli(Config, description=__doc__)
    load = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        competitors = {}
        for name in COMPETITORS:
            competitors[name] = Competitor(name, config, stack)
            competitors[name].epoch()
        times = {name: [] for name in competitors}
        for _ in range(config.rounds):
            for name, competitor in competitors.items():
                times[name].append(competitor.epoch())
    print(f"{config}; load average before {load:.2f}")
    print(f"{'competitor':14} {'ms a step':>10} {'steps/s':>8} {'ratio':>6} {'lowest':>7} {'highest':>8}")
    one = statistics.median(times["one device"])
    for name, values in times.items():
        step = statistics.median(values)
        spread = f"{min(values) * 1e3:7.1f} {max(values) * 1e3:8.1f}"
        print(f"{name:14} {step * 1e3:10.1f} {1 / step:8.1f} {step / one:6.2f} {spread}")


if __name__ == "__main__":
    main()
