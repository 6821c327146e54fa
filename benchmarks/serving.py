"""The embedded server under load, against direct calls of the loaded signature and against LitServe.

    pip install --editable '.[benchmarks]'
    python -m benchmarks.serving [--rounds 3] [--seconds 4] [--litserve PYTHON] [--server-flags=...]
    python -m benchmarks.serving --soak 30

A text classifier of 1.4 million parameters with its tokenizer in the graph (`benchmarks/serving_model.py`) is asked for
one sentence at a time. The load comes from a process of its own on the same machine, each client with a connection of
its own; latencies are percentiles of a histogram, exact to three digits. The servers are started once and asked in
turn, round after round, each stopped (SIGSTOP) while it is another's turn: LitServe's processes, for one, never rest,
and took most of a core from whoever was asked. The numbers are medians over the rounds. CPU is milliseconds of all
cores for one request.

All processes inherit the environment. TF_ENABLE_ONEDNN_OPTS=0 is worth trying: oneDNN compiles kernels for every new
shape, and batches of text of every size have many.

"direct" is a loop in one process that calls the signature with 1 or 32 sentences, with one thread inside TensorFlow's
operations and with its default, and for comparison in two threads. The better of the first two is what "of direct"
refers to: with one sentence at 1 client, with 32 at more.

The first table is of the closed loop, where each client asks again when it is answered. The second is of the open loop,
with 32 clients and Poisson arrivals at half of the best rate of the first.

`--litserve` is the Python of an environment with litserve and what the model needs. LitServe runs with several
configurations; the best of them at each number of clients is its best.
"""

import contextlib
import dataclasses
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tyro

from benchmarks.serving_cells import ask, call, measure_in_turn
from benchmarks.serving_competitors import direct, embedded_server, litserve, write_requests
from benchmarks.serving_model import prepare
from benchmarks.serving_processes import awake, send_to_all

_BATCH_1, _BATCH_32 = 1, 32
_OPEN_LOOP_CLIENTS = 32
_WAKING_SECONDS = 0.5
# Workers, largest batch, seconds to wait for it, threads inside TensorFlow's operations.
_LITSERVE = ((1, 1, 0.0, 1), (1, 32, 0.001, 0), (1, 32, 0.005, 0), (2, 32, 0.001, 1))


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        rounds: How often each server is asked.
        seconds: How long each time.
        clients: Numbers of clients in the closed loop.
        workers: Numbers of worker processes of the embedded server.
        protocols: How it is asked: "grpc", "rest", or "grpcio" for gRPC with the client that people use.
        server_flags: Further flags of the embedded server, separated by spaces.
        litserve: The Python of an environment with LitServe.
        folder: Where the model and the servers' logs go.
        soak: Minutes of mixed load instead of a comparison.
        seed: Of the arrivals, and of what the mixed load asks.
    """

    rounds: int = 3
    seconds: float = 4.0
    clients: tuple[int, ...] = (1, 8, 32)
    workers: tuple[int, ...] = (1, 2)
    protocols: tuple[str, ...] = ("grpc", "grpcio", "rest")
    server_flags: str = ""
    litserve: Annotated[Path | None, tyro.conf.arg(metavar="PYTHON")] = None
    folder: Path = Path("runs/serving-benchmark")
    soak: float = 0.0
    seed: int = 0


def start_all(config, stack):
    """Starts what is compared: targets by name, and direct calls by (threads, callers)."""
    targets = []
    for workers in config.workers:
        flags = config.server_flags.split()
        if workers > 1:
            flags.append(f"--num_workers={workers}")
        label = f"embedded, {workers} worker{'s' if workers > 1 else ''}"
        server = stack.enter_context(embedded_server(config.folder, label, *flags))
        targets += [server[protocol] for protocol in config.protocols]
    if config.litserve:
        targets += [stack.enter_context(litserve(config.folder, config.litserve, *options)) for options in _LITSERVE]
    calls = {key: stack.enter_context(direct(config.folder, *key)) for key in ((1, 1), (0, 1), (1, 2))}
    return {target.name: target for target in targets}, calls


def compare(config):
    with contextlib.ExitStack() as stack:
        targets, calls = start_all(config, stack)
        runs = {
            (f"direct, {threads or 'default'} threads, {callers} callers", batch): partial(
                call, one, batch, config.seconds
            )
            for (threads, callers), one in calls.items()
            for batch in (_BATCH_1, _BATCH_32)
        }
        runs |= {
            (name, clients): partial(ask_awake, target, clients, config.seconds)
            for clients in config.clients
            for name, target in targets.items()
        }
        for target in targets.values():
            send_to_all(target.pid, signal.SIGSTOP)
        print(f"load average {os.getloadavg()[0]:.1f} before, on {os.cpu_count()} cores", flush=True)
        cells = measure_in_turn(runs, config.rounds, config.seed)
        print_closed_loop(cells)
        peaks = {name: max(cells[name, clients].rate for clients in config.clients) for name in targets}
        half_load = {
            name: partial(ask_awake, target, _OPEN_LOOP_CLIENTS, config.seconds, peaks[name] / 2)
            for name, target in targets.items()
        }
        print_open_loop(peaks, measure_in_turn(half_load, config.rounds, config.seed))


def ask_awake(target, *arguments, **options):
    """As `ask`, of a server that is stopped before and after."""
    with awake(target.pid):
        time.sleep(_WAKING_SECONDS)
        return ask(target, *arguments, **options)


def print_closed_loop(cells):
    best = {batch: reference(cells, batch) for batch in (_BATCH_1, _BATCH_32)}
    title = f"{'closed loop':38} {'batch or':>8} {'requests/s':>10} {'p50 ms':>7} {'p99 ms':>7} {'of direct':>9}"
    print(f"{title} {'server CPU':>10} {'client CPU':>10} {'failed':>6}\n{'':38} {'clients':>8}")
    for (name, count), cell in sorted(cells.items(), key=lambda item: item[0][1]):
        ratio = cell.rate / best[_BATCH_1 if count == 1 else _BATCH_32]
        print(
            f"{name:38} {count:8} {cell.rate:10.0f} {cell.p50:7.2f} {cell.p99:7.2f} {ratio:9.2f} "
            f"{cell.server_cpu:10.3f} {cell.client_cpu:10.3f} {cell.bad:6}",
            flush=True,
        )


def reference(cells, batch):
    """Sentences a second of one caller with the better number of threads."""
    return max(cell.rate for (name, count), cell in cells.items() if name.endswith(" 1 callers") and count == batch)


def print_open_loop(peaks, cells):
    title = f"{'open loop, half of the peak':38} {'peak':>8} {'requests/s':>10} {'p50 ms':>7} {'p99 ms':>7}"
    print(f"\n{title} {'p99/p50':>9}")
    for name, cell in cells.items():
        ratio = cell.p99 / cell.p50
        print(f"{name:38} {peaks[name]:8.0f} {cell.rate:10.0f} {cell.p50:7.2f} {cell.p99:7.2f} {ratio:9.1f}")


def main():
    config = tyro.cli(Config, description=__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # and the servers with it
    prepare(config.folder)
    write_requests(config.folder)
    if config.soak:
        from benchmarks.serving_soak import soak

        soak(config)
    else:
        compare(config)


if __name__ == "__main__":
    main()
