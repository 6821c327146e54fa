"""Measurements of the serving benchmarks: taken, repeated in turn, and their medians."""

import dataclasses
import json
import statistics
import subprocess
import sys


@dataclasses.dataclass(frozen=True)
class Cell:
    """One measurement, or the median of several.

    Attributes:
        rate: Requests a second.
        p50, p99: Milliseconds.
        server_cpu, client_cpu: Milliseconds for one request.
        bad: Answers that were none, all together.
    """

    rate: float
    p50: float
    p99: float
    server_cpu: float
    client_cpu: float = 0.0
    bad: int = 0


def median(cells):
    """The median of each number, and the sum of what must not be."""
    names = ("rate", "p50", "p99", "server_cpu", "client_cpu")
    medians = {name: statistics.median(getattr(cell, name) for cell in cells) for name in names}
    return Cell(**medians, bad=sum(cell.bad for cell in cells))


def ask(target, clients, seconds, rate=0.0, seed=0):
    """Puts load on a server from another process.

    Args:
        target: `benchmarks.serving_competitors.Target`.
        clients: int.
        seconds: float.
        rate: requests a second in the open loop; 0 for the closed loop.
        seed: int, of what is asked and when.

    Returns:
        `Cell`.
    """
    load = {
        "protocol": target.protocol,
        "address": target.address,
        "target": target.target,
        "requests": target.requests,
        "server-pid": target.pid,
        "clients": clients,
        "seconds": seconds,
        "rate": rate,
        "seed": seed,
    }
    command = [sys.executable, "-m", "benchmarks.serving_load", *(f"--{name}={value}" for name, value in load.items())]
    seen = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    good = max(seen["good"], 1)
    return Cell(
        seen["good"] / seen["seconds"],
        seen["p50"],
        seen["p99"],
        seen["server_cpu"] / good * 1e3,
        seen["client_cpu"] / good * 1e3,
        seen["bad"],
    )


def call(calls, batch, seconds, seed=0):
    """Calls the signature directly, as `benchmarks.serving_competitors.Direct` does: `Cell`."""
    rate, p50, p99, cpu = calls.measure(batch, seconds, seed)
    return Cell(rate, p50, p99, cpu * 1e3)


def measure_in_turn(runs, rounds, seed):
    """Takes several measurements in turn, so that all of them meet the same noise.

    Args:
        runs: dict of name -> function of a seed that gives a `Cell`.
        rounds: int, how often each is taken.
        seed: int, of the first round.

    Returns:
        dict of name -> `Cell` with the medians.
    """
    cells = {name: [] for name in runs}
    for turn in range(rounds):
        for name, run in runs.items():
            cells[name].append(run(seed=seed + turn))
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {name: median(values) for name, values in cells.items()}
