"""The load generator of the serving benchmark, on real servers."""

import asyncio
import base64
import json

import pytest

from benchmarks.serving_cells import Cell, ask, median
from benchmarks.serving_competitors import Target
from benchmarks.serving_connections import connect
from benchmarks.serving_processes import cpu_seconds, open_files, resident_mebibytes
from tests.server_process import Server
from tests.serving.asking import predict_request
from tests.serving.conftest import write_toy_version
from tests.serving.http_asking import free_port

PREDICT = "/tensorflow.serving.PredictionService/Predict"
RIGHT = {
    "grpc": predict_request(text=["hello"]).SerializeToString(),
    "rest": json.dumps({"instances": ["hello"]}).encode(),
}
WRONG = {"grpc": predict_request(text=[1.5]).SerializeToString(), "rest": b"{}"}


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    """protocol -> `Target` of a server of the toy model."""
    folder = tmp_path_factory.mktemp("toy")
    write_toy_version(folder, 1)
    port = free_port()
    server = Server(folder, "toy", tmp_path_factory.mktemp("server") / "log", f"--rest_api_port={port}")
    try:
        places = {"grpc": (server.wait_for_address(), PREDICT), "rest": (f"127.0.0.1:{port}", "/v1/models/toy:predict")}
        targets = {}
        for name, place in places.items():
            requests = tmp_path_factory.mktemp("requests") / name
            requests.write_text(json.dumps([base64.b64encode(RIGHT[name]).decode()]))
            targets[name] = Target(name, name, *place, requests, server.process.pid)
        yield targets
    finally:
        server.close()


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_connection_tells_right_answers_from_errors_one_after_the_other(protocol, targets):
    target = targets[protocol]

    async def talk():
        host, port = target.address.split(":")
        connection = await connect(protocol, host, int(port), target.target)
        answers = asyncio.Queue()
        connection.answered = answers.put_nowait
        heard = []
        for body in (RIGHT[protocol], WRONG[protocol], RIGHT[protocol]):
            connection.ask(body)
            heard.append(await asyncio.wait_for(answers.get(), 30))
        connection.close()
        return heard

    assert asyncio.run(talk()) == [True, False, True]


@pytest.mark.parametrize(("protocol", "rate"), [("grpc", 0.0), ("rest", 0.0), ("grpc", 100.0)])
def test_load_is_counted_and_timed(protocol, rate, targets):
    pytest.importorskip("hdrh")
    cell = ask(targets[protocol], clients=4, seconds=2.0, rate=rate)
    assert cell.bad == 0
    assert 0 < cell.p50 <= cell.p99
    assert cell.server_cpu > 0
    assert cell.client_cpu > 0
    if rate:
        assert 0.6 * rate < cell.rate < 1.4 * rate  # 200 arrivals by chance


def test_the_median_is_of_each_number_and_failures_add_up():
    cells = [Cell(1.0, 2.0, 3.0, 4.0, 5.0, bad=1), Cell(3.0, 1.0, 9.0, 4.0, 5.0), Cell(2.0, 3.0, 6.0, 4.0, 5.0, bad=2)]
    assert median(cells) == Cell(2.0, 2.0, 6.0, 4.0, 5.0, bad=3)


def test_a_process_is_measured_through_proc(targets):
    pid = targets["grpc"].pid
    assert cpu_seconds(pid) > 0.5  # it has imported TensorFlow
    assert resident_mebibytes(pid) > 100
    assert open_files(pid) > 3
    assert cpu_seconds(0) == 0
