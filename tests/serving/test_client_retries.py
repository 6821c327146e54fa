"""The client repeats what an UNAVAILABLE server did not answer, for as long as its time and its retries last."""

import asyncio
import threading
import time

import numpy as np
import pytest

from keras_attention.serving.client import AsyncClient, Client
from keras_attention.serving.errors import ServingError
from tests.server_process import Server
from tests.serving.canned_rest import canned_server

STATUS = b'{"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": {}}]}'
# About one megabyte: more than gRPC keeps for another attempt unless it is told to.
LARGE = {"text": ["a" * 1_000_000]}


@pytest.fixture(scope="module")
def socket_path(toy_path, tmp_path_factory):
    """Where a server of the toy model has its UNIX socket."""
    path = tmp_path_factory.mktemp("socket") / "s"
    server = Server(toy_path, "toy", path.with_name("log"), f"--grpc_socket_path={path}")
    try:
        server.wait_for_address()
        yield path
    finally:
        server.close()


@pytest.fixture
def late_address(socket_path, tmp_path):
    """The address of a UNIX socket at which a server answers from half a second on."""
    path = tmp_path / "s"
    timer = threading.Timer(0.5, lambda: path.symlink_to(socket_path))
    timer.start()
    yield f"unix:{path}"
    timer.join()


def test_a_server_that_comes_after_the_first_attempt_answers_over_grpc(late_address):
    start = time.monotonic()
    with Client(late_address) as client:
        assert client.predict("toy", LARGE)["length"].tolist() == [1_000_000]
    assert time.monotonic() - start > 0.4


def test_a_server_that_comes_after_the_first_attempt_answers_asynchronously(late_address):
    async def ask():
        async with AsyncClient(late_address) as client:
            return await client.predict("toy", LARGE)

    assert asyncio.run(ask())["length"].tolist() == [1_000_000]


def test_without_retries_it_does_not(late_address):
    with Client(late_address, retries=0) as client, pytest.raises(ServingError, match="UNAVAILABLE: no server answers"):
        client.predict("toy", LARGE)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_server_that_listens_after_the_first_attempt_answers_over_rest(kind):
    with canned_server({"/v1/models/m": [(200, STATUS)]}, listen=False) as server:
        threading.Timer(0.5, server.listen).start()
        client = kind(f"http://{server.address}")
        answer = client.status("m")
        (version,) = answer if kind is Client else asyncio.run(answer)
        assert version.state == "AVAILABLE"


def test_503_is_asked_again_and_another_status_is_not():
    unavailable = (503, b'{"error": "busy"}')
    answers = {
        "/v1/models/m": [unavailable, unavailable, (200, STATUS)],
        "/v1/models/full": [(429, b'{"error": "full"}'), (200, STATUS)],
        "/v1/models/away": [unavailable],
    }
    with canned_server(answers) as server, Client(f"http://{server.address}") as client:
        assert client.status("m")[0].version == 1
        assert len(server.requests) == 3
        with pytest.raises(ServingError, match="RESOURCE_EXHAUSTED: full"):
            client.status("full")
        assert len(server.requests) == 4
        with pytest.raises(ServingError, match="UNAVAILABLE: busy"):
            client.status("away")
        assert len(server.requests) == 9


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_the_deadline_ends_the_retries(scheme):
    with canned_server({}, listen=False) as server:
        start = time.monotonic()
        with Client(scheme + server.address) as client, pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
            client.predict("m", {"x": np.zeros(1)}, timeout=0.3)
        assert 0.2 < time.monotonic() - start < 2


@pytest.mark.parametrize("retries", [-1, 5])
def test_retries_that_grpc_would_not_make_are_refused(retries):
    with pytest.raises(ValueError, match="retries must be from 0 to 4"):
        Client("127.0.0.1:1", retries=retries)
