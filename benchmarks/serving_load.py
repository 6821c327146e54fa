"""One process of load on a server: closed loop, or open loop with Poisson arrivals; prints what it saw as JSON.

    python -m benchmarks.serving_load --protocol grpc --address 127.0.0.1:8500 --target /tensorflow.serving... \
        --requests requests.json --clients 32 --seconds 5 [--rate 400]

In the closed loop each client, with a connection of its own, sends its next request when the answer to the last is
there. In the open loop requests arrive at random moments, `rate` of them a second on average, whatever the server
does: one that finds all clients busy waits for a client, and its latency counts from its arrival.
"""

import asyncio
import base64
import dataclasses
import json
import random
import resource
import selectors
import time
from collections import deque
from pathlib import Path

import tyro

from benchmarks.serving_connections import connect
from benchmarks.serving_processes import cpu_seconds

LONGEST_MICROSECONDS = 60_000_000
DIGITS = 3


@dataclasses.dataclass(frozen=True)
class Load:
    """Whom to ask, and how.

    Attributes:
        protocol: "grpc", "rest", or "grpcio" for gRPC with the client of the grpcio package.
        address: Host and port.
        target: The gRPC method or the HTTP path.
        requests: A JSON file with a list of request bodies in base64.
        clients: How many requests there are at a time; in the open loop at most.
        seconds: How long to measure.
        warm_up: Seconds of load before that.
        rate: Requests a second in the open loop; 0 for the closed loop.
        server_pid: The server's process, whose CPU time is measured with that of its children.
        seed: Of the arrivals.
    """

    protocol: str
    address: str
    target: str
    requests: Path
    clients: int = 1
    seconds: float = 5.0
    warm_up: float = 1.0
    rate: float = 0.0
    server_pid: int = 0
    seed: int = 0


def new_histogram():
    """An empty histogram of microseconds."""
    from hdrh.histogram import HdrHistogram

    return HdrHistogram(1, LONGEST_MICROSECONDS, DIGITS)


class Meter:
    """Counts and times the answers that come inside the window that is measured."""

    def __init__(self, load):
        self._pid = load.server_pid
        self.histogram = new_histogram()
        self.good = self.bad = 0
        self.measures = False

    def start(self):
        self.measures = True
        self._start = time.perf_counter(), _own_cpu_seconds(), cpu_seconds(self._pid)

    def stop(self):
        self.measures = False
        end = time.perf_counter(), _own_cpu_seconds(), cpu_seconds(self._pid)
        self.seconds, self.client_cpu, self.server_cpu = (b - a for a, b in zip(self._start, end, strict=True))

    def record(self, good, seconds):
        if not self.measures:
            return
        if good:
            self.good += 1
            self.histogram.record_value(min(max(round(seconds * 1e6), 1), LONGEST_MICROSECONDS))
        else:
            self.bad += 1

    def result(self):
        """What was seen, by name; latencies in milliseconds."""
        return {
            "good": self.good,
            "bad": self.bad,
            "seconds": self.seconds,
            "client_cpu": self.client_cpu,
            "server_cpu": self.server_cpu,
            "p50": self.histogram.get_value_at_percentile(50) / 1e3,
            "p99": self.histogram.get_value_at_percentile(99) / 1e3,
        }


class Client:
    """One client: sends a request, tells when the answer is there, and is free again."""

    def __init__(self, connection, meter, next_body, on_free):
        self._connection = connection
        self._meter = meter
        self._next_body = next_body
        self._on_free = on_free
        connection.answered = self._answered

    def ask(self, arrival):
        self._arrival = arrival
        self._connection.ask(self._next_body())

    def close(self):
        self._connection.close()

    def _answered(self, good):
        self._meter.record(good, time.perf_counter() - self._arrival)
        self._on_free(self)


async def run(load):
    """Puts a load on a server.

    Args:
        load: `Load`.

    Returns:
        `Meter`, stopped.
    """
    bodies = [base64.b64decode(body) for body in json.loads(load.requests.read_text())]
    chance = random.Random(load.seed)
    meter = Meter(load)
    if load.protocol == "grpcio":
        from benchmarks.serving_grpcio import connect_grpcio as make_connection
    else:
        make_connection = connect
    host, port = load.address.rsplit(":", 1)
    connections = [await make_connection(load.protocol, host, int(port), load.target) for _ in range(load.clients)]
    drive = _closed_loop if load.rate == 0 else _open_loop
    driving = asyncio.create_task(drive(load, connections, meter, lambda: chance.choice(bodies), chance))
    await asyncio.sleep(load.warm_up)
    meter.start()
    await asyncio.sleep(load.seconds)
    meter.stop()
    if driving.done():
        await driving  # it has failed
    driving.cancel()
    return meter


async def _closed_loop(load, connections, meter, next_body, chance):
    clients = [Client(c, meter, next_body, lambda client: client.ask(time.perf_counter())) for c in connections]
    try:
        for client in clients:
            client.ask(time.perf_counter())
            # Clients that begin together would stay together.
            await asyncio.sleep(chance.uniform(0, 0.002))
        await asyncio.Event().wait()
    finally:
        for client in clients:
            client.close()


async def _open_loop(load, connections, meter, next_body, chance):
    waiting = deque()

    def on_free(client):
        if waiting:
            client.ask(waiting.popleft())
        else:
            free.append(client)

    clients = [Client(connection, meter, next_body, on_free) for connection in connections]
    free = deque(clients)
    arrival = time.perf_counter()
    try:
        while True:
            arrival += chance.expovariate(load.rate)
            await asyncio.sleep(max(arrival - time.perf_counter(), 0))
            if free:
                free.popleft().ask(arrival)
            else:
                waiting.append(arrival)
    finally:
        for client in clients:
            client.close()


def _own_cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main():
    load = tyro.cli(Load, description=__doc__)
    # select() waits for fractions of a millisecond; epoll, asyncio's default, would let arrivals come late.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        print(json.dumps(runner.run(run(load)).result()))


if __name__ == "__main__":
    main()
