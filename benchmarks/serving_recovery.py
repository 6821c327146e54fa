"""What clients see when a worker of the embedded server is killed, and how long the others take to make up for it.

    python -m benchmarks.serving_recovery [--kills 5] [--clients 16]

Each client, on a channel of its own as a program of its own would have, asks one thing after the other, without waiting
for a connection and without retries, and a hundredth of a second later again when a request has failed. One of two
workers is killed (SIGKILL), and when the server has recovered the next. "in flight" are failed requests that had been
sent when the worker was killed, "later" those that were sent after it, "clients" those whose later requests failed.
Recovered is the server at the beginning of the first second with nine tenths of the answers that it gave in a median
second before.
"""

import asyncio
import dataclasses
import json
import os
import signal
import statistics
import sys
import time
from base64 import b64decode
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import tyro

from benchmarks.serving_competitors import embedded_server, write_requests
from benchmarks.serving_model import prepare
from benchmarks.serving_processes import children

_BEFORE, _AFTER = 8.0, 25.0
_PAUSE_AFTER_FAILURE = 0.01
_SLICE = 0.25


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        kills: How many workers are killed, one after the other.
        clients: How many ask at a time.
        folder: Where the model and the server's log go.
    """

    kills: int = 5
    clients: int = 16
    folder: Path = Path("runs/serving-benchmark")


async def ask(target, bodies, seen):
    """Asks until it is cancelled; adds to `seen` when each request was sent, when it ended and whether by an answer."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target.address, options=options) as channel:
        method = channel.unary_unary(target.target)
        while True:
            for body in bodies:
                sent = time.monotonic()
                try:
                    await method(body)
                    seen.append((sent, time.monotonic(), True))
                except grpc.aio.AioRpcError:
                    seen.append((sent, time.monotonic(), False))
                    await asyncio.sleep(_PAUSE_AFTER_FAILURE)


async def measure(config, target):
    bodies = [b64decode(body) for body in json.loads(target.requests.read_text())]
    print(
        f"{'kill':>4} {'before/s':>8} {'in flight':>9} {'later':>6} {'clients':>7} {'recovered s':>11} {'after/s':>8}"
    )
    for kill in range(config.kills):
        seen = [[] for _ in range(config.clients)]
        asking = [asyncio.create_task(ask(target, bodies, one)) for one in seen]
        await asyncio.sleep(_BEFORE)
        os.kill(min(children(target.pid)), signal.SIGKILL)
        killed = time.monotonic()
        await asyncio.sleep(_AFTER)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        report(kill + 1, seen, killed)


def report(kill, seen, killed):
    """Prints a line."""
    failed = [[sent for sent, _, answered in one if not answered and sent > killed] for one in seen]
    in_flight = sum(sent <= killed < end for one in seen for sent, end, answered in one if not answered)
    answers = [end for one in seen for _, end, answered in one if answered]
    before = statistics.median(rate(answers, killed - second) for second in range(1, int(_BEFORE) - 1))
    slices = [slice_ * _SLICE for slice_ in range(int((_AFTER - 1) / _SLICE))]
    recovered = next((start for start in slices if rate(answers, killed + start) >= 0.9 * before), float("nan"))
    after = statistics.median(rate(answers, killed + _AFTER - second) for second in range(1, 7))
    print(
        f"{kill:4} {before:8.0f} {in_flight:9} {sum(map(len, failed)):6} {sum(map(bool, failed)):7} {recovered:11.2f} "
        f"{after:8.0f}",
        flush=True,
    )


def rate(times, start):
    """How many of the times lie in the second from `start` on."""
    return sum(start <= time < start + 1 for time in times)


def main():
    config = tyro.cli(Config, description=__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    prepare(config.folder)
    write_requests(config.folder)
    with embedded_server(config.folder, "2 workers", "--num_workers=2") as targets:
        print(f"load average {os.getloadavg()[0]:.1f} before, on {os.cpu_count()} cores", flush=True)
        asyncio.run(measure(config, targets["grpc"]))


if __name__ == "__main__":
    main()
