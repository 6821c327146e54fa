"""The servers that the serving benchmark compares, each started once and asked through one of its protocols."""

import base64
import contextlib
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.serving_model import MODEL_NAME, read_sentences
from benchmarks.serving_processes import free_port, is_healthy, running, wait_until

_PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclasses.dataclass(frozen=True)
class Target:
    """A running server and how to ask it.

    Attributes:
        name: what the table calls it.
        protocol, address, target, requests, pid: as in `benchmarks.serving_load.Load`.
    """

    name: str
    protocol: str
    address: str
    target: str
    requests: Path
    pid: int


def write_requests(folder):
    """Writes the sentences as bodies for each protocol, where `Target.requests` points to."""
    from keras_attention.serving.protocol import PredictRequest, TensorProto

    bodies = {"grpc": [], "rest": [], "litserve": []}
    for sentence in read_sentences(folder):
        request = PredictRequest()
        request.model_spec.name = MODEL_NAME
        request.inputs["text"].CopyFrom(
            TensorProto(dtype=7, tensor_shape={"dim": [{"size": 1}]}, string_val=[sentence])
        )
        bodies["grpc"].append(request.SerializeToString())
        bodies["rest"].append(json.dumps({"instances": [sentence.decode()]}).encode())
        bodies["litserve"].append(json.dumps({"text": sentence.decode()}).encode())
    for name, requests in bodies.items():
        _requests(folder, name).write_text(json.dumps([base64.b64encode(body).decode() for body in requests]))


def _requests(folder, name):
    return folder / f"requests-{name}.json"


@contextlib.contextmanager
def embedded_server(folder, label, *flags):
    """The embedded server with a REST API, asked through both protocols: name of the protocol -> `Target`.

    Args:
        folder: pathlib.Path that `benchmarks.serving_model.prepare` has filled.
        label: str, what the table calls it.
        *flags: of `keras-attention serve`.

    Yields:
        dict of "grpc", "grpcio" and "rest" -> `Target`.
    """
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "keras_attention.cli",
        "serve",
        f"--model_base_path={folder / MODEL_NAME}",
    ]
    command += [f"--model_name={MODEL_NAME}", "--port=0", f"--rest_api_port={port}", *flags]
    log = folder / f"server-{re.sub('[^a-z0-9]+', '-', label.lower())}.log"
    with running(command, log, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server did not come up:\n{log.read_text()[-4000:]}")
        grpc_address = re.search(r" at (\S+) \(gRPC\)", line)[1]
        yield targets_at(folder, label, grpc_address, f"127.0.0.1:{port}", process.pid)


def targets_at(folder, label, grpc_address, rest_address, pid):
    """The ways to ask a server that runs: dict of "grpc", "grpcio" and "rest" -> `Target`."""
    places = {
        "grpc": (grpc_address, _PREDICT, _requests(folder, "grpc")),
        "grpcio": (grpc_address, _PREDICT, _requests(folder, "grpc")),
        "rest": (rest_address, f"/v1/models/{MODEL_NAME}:predict", _requests(folder, "rest")),
    }
    return {name: Target(f"{label}, {name}", name, *place, pid) for name, place in places.items()}


@contextlib.contextmanager
def litserve(folder, python, workers, batch, timeout, intra_op):
    """LitServe with one configuration, run by the Python of its own environment.

    Args:
        folder: as for `embedded_server`.
        python: pathlib.Path of that Python.
        workers: int, its processes that run the model.
        batch: int, the most requests that are merged.
        timeout: float, seconds to wait for them.
        intra_op: int, threads inside TensorFlow's operations.

    Yields:
        `Target`.
    """
    port = free_port()
    label = f"litserve {workers}w b{batch} t{timeout * 1000:g}ms"
    version = max((folder / MODEL_NAME).iterdir(), key=lambda path: int(path.name))
    script = Path(__file__).with_name("serving_litserve.py")
    values = (python, script, version, port, workers, batch, timeout, intra_op)
    log = folder / f"server-{label.replace(' ', '-')}.log"
    with running([str(value) for value in values], log) as process:
        wait_until(lambda: is_healthy(port), process, log)
        yield Target(label, "rest", f"127.0.0.1:{port}", "/predict", _requests(folder, "litserve"), process.pid)


class Direct:
    """Direct calls, in a process of their own that waits between measurements."""

    def __init__(self, process):
        self._process = process

    def measure(self, batch, seconds, seed):
        """Sentences/s, p50 and p99 of a call in milliseconds, CPU seconds a sentence."""
        self._process.stdin.write(f"{batch} {seconds} {seed}\n")
        self._process.stdin.flush()
        return tuple(map(float, self._process.stdout.readline().split()))


@contextlib.contextmanager
def direct(folder, intra_op, callers):
    """Direct calls with so many threads inside TensorFlow's operations (0: its default) and so many callers.

    Yields:
        `Direct`.
    """
    version = max((folder / MODEL_NAME).iterdir(), key=lambda path: int(path.name))
    command = [sys.executable, "-m", "benchmarks.serving_direct", version, folder / "sentences.json", intra_op, callers]
    log = folder / f"direct-{intra_op}-{callers}.log"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with running([str(part) for part in command], log, **pipes) as process:
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"direct calls failed:\n{log.read_text()[-4000:]}")
        yield Direct(process)
