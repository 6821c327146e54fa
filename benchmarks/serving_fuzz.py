"""Requests that no client should send, thousands of them, each beside one whose answer must be right.

    python -m benchmarks.serving_fuzz [--requests 10000] [--seed 0] [--first 0]

Starts the embedded server with the models of its tests and sends it random and damaged messages over gRPC and REST,
tensors that fit no signature, huge ones, thousands of inputs, and connections that are cut or crawl. It finds fault
with an answer that takes longer than 30 seconds, a status that TensorFlow Serving's protocol does not have for it, a
wrong answer to a right request, an error in the server's log, a server that has ended, and, with as many requests as by
default, with memory or open files that grow by more than a tenth in the second half. The same seed gives the same
requests; `--first 4711 --requests 1` repeats one. Needs the packages of the tests.
"""

import asyncio
import contextlib
import dataclasses
import json
import random
import re
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import grpc
import tyro

from benchmarks.serving_fuzz_requests import GrpcRequest, http_request, make_request
from benchmarks.serving_processes import open_files, resident_mebibytes
from keras_attention.serving.protocol import UNLIMITED_MESSAGES, PredictRequest, PredictResponse, TensorProto

DEADLINE = 30.0
_AT_ONCE = 16
_MOST_FAULTS = 10
_MOST_GROWTH = 1.1
_SETTLING_SECONDS = 5.0
_PREDICT = "/tensorflow.serving.PredictionService/Predict"

_GRPC_STATUSES = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
}
_HTTP_STATUSES = {200, 400, 404, 429, 500, 501}
# INTERNAL, 500 in HTTP, is for bytes that are no message and for signatures that cannot be called, and nothing else.
_INTERNAL = ("The request is no ", "Expected prediction signature method_name")


class FaultError(AssertionError):
    """What the server did and must not do."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What to send.

    Attributes:
        requests: How many.
        seed: Of all that is random.
        first: The number of the first request, to repeat one.
    """

    requests: int = 10_000
    seed: int = 0
    first: int = 0


@dataclasses.dataclass
class Report:
    """What was seen.

    Attributes:
        statuses: How often which status came.
        faults: What was wrong, with the request.
        resident: Mebibytes of the server after each half.
        files: Its open file descriptors after each half.
        seconds: How long it took.
    """

    statuses: Counter = dataclasses.field(default_factory=Counter)
    faults: list[str] = dataclasses.field(default_factory=list)
    resident: list[float] = dataclasses.field(default_factory=list)
    files: list[int] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def growth(self):
        """By which factors resident memory and open files grew in the second half."""
        return self.resident[1] / self.resident[0], self.files[1] / self.files[0]


class Fuzzer:
    """Sends requests to a server with the models toy, examples and types.

    Args:
        grpc_address: str, host and port.
        rest_address: str, host and port.
        pid: int, the server's process.
        log: pathlib.Path of its log.

    Attributes:
        addresses: dict of "grpc" and "rest" -> host and port.
        pid: the server's process.
    """

    def __init__(self, grpc_address, rest_address, pid, log):
        self.addresses = {"grpc": grpc_address, "rest": rest_address}
        self.pid = pid
        self._log = log

    async def run(self, config):
        """Sends all, in two halves: `Report`."""
        report, start = Report(), time.monotonic()
        half = config.first + (config.requests + 1) // 2
        for numbers in (range(config.first, half), range(half, config.first + config.requests)):
            await self.send(config.seed, numbers, report)
            await self._settle()
            report.resident.append(round(resident_mebibytes(self.pid)))
            report.files.append(open_files(self.pid))
        report.seconds = time.monotonic() - start
        if not report.resident[1]:
            report.faults.append("the server has ended")
        report.faults += self.errors_in_log()
        return report

    async def send(self, seed, numbers, report):
        """Sends the requests of these numbers and adds what is seen to a report."""
        limit = asyncio.Semaphore(_AT_ONCE)
        async with grpc.aio.insecure_channel(self.addresses["grpc"], options=UNLIMITED_MESSAGES) as self._channel:
            await asyncio.gather(*(self._pair(seed, number, limit, report) for number in numbers))

    def errors_in_log(self):
        """The lines of the server's log that should not be there: list of str."""
        return [f"in the log: {line[:300]}" for line in self._log.read_text().splitlines() if _is_error(line)]

    async def _pair(self, seed, number, limit, report):
        chance = random.Random(f"{seed} {number}")
        request = make_request(chance)
        async with limit:
            if len(report.faults) >= _MOST_FAULTS:
                return
            outcomes = await asyncio.gather(
                self._send(request), self._ask_rightly(chance, number), return_exceptions=True
            )
        for outcome in outcomes:
            if isinstance(outcome, FaultError):
                report.faults.append(f"seed {seed}, request {number}: {outcome}\n    {request}")
            elif isinstance(outcome, BaseException):
                raise outcome
        report.statuses["fault" if isinstance(outcomes[0], FaultError) else outcomes[0]] += 1

    async def _send(self, request):
        """Sends a request that may be wrong, and gives the status."""
        if isinstance(request, GrpcRequest):
            return await self._send_grpc(request)
        try:
            async with asyncio.timeout(DEADLINE):
                answer = await self._send_http(request)
        except TimeoutError:
            raise FaultError(f"no answer in {DEADLINE:.0f} s") from None
        return "no HTTP answer" if answer is None else _checked_http_status(*answer)

    async def _send_grpc(self, request):
        try:
            await self._channel.unary_unary(request.method)(request.content, timeout=request.timeout or DEADLINE)
        except grpc.aio.AioRpcError as error:
            code, message = error.code(), error.details()
        else:
            return "OK"
        if code == grpc.StatusCode.DEADLINE_EXCEEDED and request.timeout:
            return "given up"
        if code not in _GRPC_STATUSES or (code == grpc.StatusCode.INTERNAL and not message.startswith(_INTERNAL)):
            raise FaultError(f"{code.name}: {message[:600]}")
        return code.name

    async def _send_http(self, request):
        """Writes a request, and reads status and body of the answer, if one is waited for and comes."""
        reader, writer = await asyncio.open_connection(*self.addresses[request.port].rsplit(":", 1))
        try:
            for piece in request.pieces:
                writer.write(piece)
                await asyncio.sleep(request.pause)
            if request.end == "answer":
                # A server that refuses a request need not read all of it.
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    return _read_answer(await reader.read())
            elif request.end == "reset":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return None
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _ask_rightly(self, chance, number):
        """Asks something right over gRPC or REST and compares the answer."""
        text = f"{number} {'Straße' * chance.randint(0, 3)}"
        ask = chance.choice([self._fold_over_grpc, self._fold_over_rest, self._scale_over_rest])
        try:
            async with asyncio.timeout(DEADLINE):
                given, expected = await ask(text, number)
        except (TimeoutError, grpc.aio.AioRpcError, OSError) as error:
            raise FaultError(f"a right request beside it failed: {error!r}") from None
        if given != expected:
            raise FaultError(f"a right request beside it was answered with {given}, not with {expected}")

    async def _fold_over_grpc(self, text, number):
        strings = TensorProto(dtype=7, tensor_shape={"dim": [{"size": 1}]}, string_val=[text.encode()])
        request = PredictRequest(model_spec={"name": "toy"}, inputs={"text": strings})
        content = await self._channel.unary_unary(_PREDICT)(request.SerializeToString(), timeout=DEADLINE)
        outputs = PredictResponse.FromString(content).outputs
        return [outputs["folded"].string_val[0], outputs["length"].int_val[0]], [
            text.casefold().encode(),
            len(text.encode()),
        ]

    async def _fold_over_rest(self, text, number):
        code, answer = await self._ask_rest("types", {"signature_name": "text", "instances": [text, "b"]})
        return [code, answer], [200, {"predictions": [text, "b"]}]

    async def _scale_over_rest(self, text, number):
        document = {"signature_name": "scale", "instances": [{"x": [number, 1], "factor": 3}]}
        code, answer = await self._ask_rest("toy", document)
        return [code, answer], [200, {"predictions": [[3.0 * number, 3.0]]}]

    async def _ask_rest(self, model, document):
        content = http_request("POST", f"/v1/models/{model}:predict", json.dumps(document).encode())
        reader, writer = await asyncio.open_connection(*self.addresses["rest"].rsplit(":", 1))
        try:
            writer.write(content)
            answer = _read_answer(await reader.read())
        finally:
            writer.close()
        return (answer[0], json.loads(answer[1])) if answer else (None, None)

    async def _settle(self):
        """Waits until the server has noticed which connections have gone."""
        files, deadline = None, time.monotonic() + _SETTLING_SECONDS
        while files != open_files(self.pid) and time.monotonic() < deadline:
            files = open_files(self.pid)
            await asyncio.sleep(0.5)


def _read_answer(content):
    head, separator, body = content.partition(b"\r\n\r\n")
    return (int(head.split(b" ", 2)[1]), body) if separator else None


def _checked_http_status(code, body):
    if code not in _HTTP_STATUSES or (code == 500 and not any(text.encode() in body for text in _INTERNAL)):
        raise FaultError(f"HTTP {code}: {body[:600]!r}")
    if code != 200 and body and body != b"Invalid HTTP request received.":
        try:
            error = json.loads(body)["error"]
        except (ValueError, KeyError, TypeError):
            raise FaultError(f"HTTP {code} without an error in JSON: {body[:600]!r}") from None
        if type(error) is not str:
            raise FaultError(f"HTTP {code} with an error that is no text: {error!r}")
    return f"HTTP {code}"


def _is_error(line):
    return re.search(r"Traceback| ERROR | CRITICAL |^\w*Error:", line) is not None


@contextlib.contextmanager
def models_server(folder, *flags, **more):
    """The embedded server with the models toy, examples and types, REST and metrics.

    Args:
        folder: pathlib.Path, an empty one.
        *flags: further flags of the server.
        **more: further models, their base paths by their names.

    Yields:
        `Fuzzer`.
    """
    from tests.server_process import Server
    from tests.serving.conftest import write_example_version, write_toy_version, write_types_version
    from tests.serving.http_asking import free_port

    writers = {"toy": write_toy_version, "examples": write_example_version, "types": write_types_version}
    for name, write in writers.items():
        (folder / name).mkdir()
        write(folder / name, 1)
    base_paths = {name: folder / name for name in writers} | more
    entries = [
        f"config {{ name: '{name}' base_path: '{path}' model_platform: 'tensorflow' }}"
        for name, path in base_paths.items()
    ]
    (folder / "models.config").write_text(f"model_config_list {{ {' '.join(entries)} }}")
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
    rest = f"127.0.0.1:{free_port()}"
    server = Server(
        None,
        "",
        folder / "log",
        f"--model_config_file={folder / 'models.config'}",
        f"--rest_api_port={rest.split(':')[1]}",
        f"--monitoring_config_file={folder / 'monitoring.config'}",
        *flags,
    )
    try:
        address = server.wait_for_address()
        for _ in entries[1:]:
            server.wait_for_line()
        yield Fuzzer(address, rest, server.process.pid, folder / "log")
    finally:
        server.close()


def main():
    config = tyro.cli(Config, description=__doc__)
    with tempfile.TemporaryDirectory() as folder, models_server(Path(folder)) as fuzzer:
        report = asyncio.run(fuzzer.run(config))
    print(f"seed {config.seed}: {config.requests} requests, each beside a right one, in {report.seconds:.0f} s")
    print(", ".join(f"{status} {count}" for status, count in report.statuses.most_common()))
    print(f"server after each half: {report.resident} MiB resident, {report.files} open files")
    faults = report.faults
    if not faults and config.requests >= Config.requests and max(report.growth) > _MOST_GROWTH:
        faults.append(f"memory or open files grew by more than a factor of {_MOST_GROWTH}")
    print(*faults, sep="\n")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
