"""Versions come, fail and go while a server runs."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keras_attention.serving.client import Client
from keras_attention.serving.errors import ServingError
from tests.serving.asking import TIMEOUT, wait_until


def test_a_new_version_takes_over_while_requests_flow_and_none_fails(start_server, write_toy, tmp_path):
    base_path = tmp_path / "toy"
    base_path.mkdir()
    write_toy(base_path, 1)
    server = start_server(base_path)
    stop, seen = threading.Event(), []

    def ask(client):
        while not stop.is_set():
            outputs = client.predict("toy", {"text": ["a", "b"]})
            seen.append(tuple(outputs["version"]))

    with Client(server.wait_for_address()) as client, ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, client) for _ in range(4)]
        try:
            wait_until(lambda: (1, 1) in seen)
            write_toy(base_path, 2)
            wait_until(lambda: (2, 2) in seen)
        finally:
            stop.set()
        for task in asking:
            task.result(timeout=TIMEOUT)
        assert set(seen) == {(1, 1), (2, 2)}
        wait_until(lambda: [version.state for version in client.status("toy")] == ["AVAILABLE", "END"])
        with pytest.raises(ServingError, match=r"Specific\(toy, 1\)"):
            client.predict("toy", {"text": ["a"]}, version=1)


def test_the_server_waits_for_a_version_and_keeps_it_when_the_next_is_broken(start_server, write_toy, tmp_path):
    base_path = tmp_path / "toy"
    base_path.mkdir()
    (base_path / "not-a-version").mkdir()
    server = start_server(base_path)
    wait_until(lambda: f"no version of model toy found under {base_path}" in server.log.read_text())
    address = server.log.read_text().split("listening at ")[1].split()[0]
    with Client(address) as client:
        with pytest.raises(ServingError, match="Could not find any versions of model toy"):
            client.status("toy")
        with grpc.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
            assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING

        write_toy(base_path, 1)
        client.wait_until_ready("toy", timeout=30)
        assert server.wait_for_line() == f"Serving toy version 1 at {address} (gRPC)"

        (base_path / ".tmp-3").mkdir()
        broken = base_path / "2"
        broken.mkdir()
        (broken / "saved_model.pb").write_bytes(b"half a model")
        wait_until(lambda: len(client.status("toy")) == 2 and client.status("toy")[0].state == "END")
        failed, good = client.status("toy")
        assert (failed.version, good.version, good.state) == (2, 1, "AVAILABLE")
        assert str(broken) in failed.error
        assert client.predict("toy", {"text": ["a"]})["version"].tolist() == [1]
