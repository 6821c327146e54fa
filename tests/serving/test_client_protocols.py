"""The same questions over gRPC and over REST, in sync and in async: the same answers and the same errors."""

import asyncio
import inspect
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from keras_attention.serving.client import AsyncClient, Client, ScoredClass
from keras_attention.serving.errors import ServingError
from tests.server_process import Server


class Blocking:
    """An `AsyncClient` whose coroutines are run to their end as they are called."""

    def __init__(self, address: str, **settings):
        self._runner = asyncio.Runner()
        self._client = AsyncClient(address, **settings)

    def __getattr__(self, name):
        value = getattr(self._client, name)
        if not inspect.iscoroutinefunction(value):
            return value
        return lambda *arguments, **named: self._runner.run(value(*arguments, **named))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._runner.run(self._client.close())
        self._runner.close()


def model_config(toy_path, examples_path, label: str = "stable") -> str:
    toy = f"name: 'toy' base_path: '{toy_path}' version_labels {{ key: '{label}' value: 1 }}"
    models = [toy, f"name: 'examples' base_path: '{examples_path}'"]
    entries = "".join(f"config {{ {model} model_platform: 'tensorflow' }} " for model in models)
    return f"model_config_list {{ {entries}}}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def addresses(toy_path, examples_path, tmp_path_factory):
    """The gRPC and the REST address of a server of two models."""
    folder = tmp_path_factory.mktemp("protocols")
    config = folder / "models.config"
    config.write_text(model_config(toy_path, examples_path))
    rest_port = free_port()
    server = Server(
        None,
        "",
        folder / "log",
        f"--model_config_file={config}",
        "--allow_version_labels_for_unavailable_models",
        f"--rest_api_port={rest_port}",
    )
    try:
        addresses = {"grpc": server.wait_for_address(), "rest": f"http://127.0.0.1:{rest_port}"}
        with Client(addresses["grpc"]) as client:
            for model in ("toy", "examples"):
                client.wait_until_ready(model)
        yield addresses
    finally:
        server.close()


@pytest.fixture(params=[Client, Blocking], ids=["sync", "async"])
def kind(request):
    return request.param


@pytest.fixture(params=["grpc", "rest"])
def protocol(request):
    return request.param


@pytest.fixture
def client(addresses, protocol, kind):
    with kind(addresses[protocol]) as client:
        yield client


@pytest.mark.parametrize("version", [None, 1, "stable"])
def test_text_goes_in_and_text_bytes_and_numbers_come_out(client, version):
    outputs = client.predict("toy", {"text": ["Ünd", b"\xffA\0"]}, version=version)
    assert {name: value.dtype for name, value in outputs.items()} == {
        "folded": object,
        "raw_bytes": object,
        "length": np.int32,
        "version": np.int32,
    }
    assert outputs["folded"].tolist() == ["ünd", "\ufffda\0"]
    assert outputs["raw_bytes"].tolist() == ["Ünd".encode(), b"\xffA\0"]
    assert (outputs["length"].tolist(), outputs["version"].tolist()) == ([4, 3], [1, 1])


def test_numbers_keep_their_shape_and_type_and_defaults_apply(client):
    outputs = client.predict("toy", {"x": np.float32([[1, 0.1], [3, 4]])}, "scale")
    assert list(outputs) == ["y"]
    assert outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(outputs["y"], np.float32([[2, 0.2], [6, 8]]))
    outputs = client.predict("toy", {"x": [[1.0, 2.0]], "factor": [3.0]}, "scale")
    assert outputs["y"].tolist() == [[3, 6]]


def test_classify_and_regress(client):
    classes = client.classify("examples", [{"x": 0.25}, {"x": np.float32(0.5), "shift": [0.5]}])
    assert classes == [
        [ScoredClass("yes", 0.25), ScoredClass("no", 0.75)],
        [ScoredClass("yes", 1.0), ScoredClass("no", 0.0)],
    ]
    values = client.regress("examples", [{"x": 0.25}, {"x": 1.0}], "regress")
    assert (values.dtype, values.tolist()) == (np.float32, [0.5, 2.0])


def test_status_and_metadata(client):
    (version,) = client.status("toy")
    assert (version.version, version.state, version.error) == (1, "AVAILABLE", "")
    assert client.metadata("toy", "stable")["scale"]["inputs"]["x"] == {"dtype": "float32", "shape": [None, 2]}
    assert client.metadata("examples")["serving_default"] == {
        "method": "classify",
        "inputs": {"inputs": {"dtype": "string", "shape": [None]}},
        "outputs": {
            "classes": {"dtype": "string", "shape": [None, 2]},
            "scores": {"dtype": "float32", "shape": [None, 2]},
        },
    }
    client.wait_until_ready("toy", timeout=10)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda c: c.predict("other", {"text": ["a"]}), r"NOT_FOUND: Servable not found for request: Latest\(other\)"),
        (lambda c: c.predict("toy", {"text": ["a"]}, version=7), "NOT_FOUND: Servable not found .*7"),
        (lambda c: c.predict("toy", {"text": ["a"]}, version="x"), "Unrecognized servable version label: x"),
        (lambda c: c.predict("toy", {"text": [["a"]]}), "INVALID_ARGUMENT: "),
        (lambda c: c.predict("toy", {"text": ["bad"]}, "picky"), "INVALID_ARGUMENT: .*no bad text, please"),
        (lambda c: c.classify("examples", []), "INVALID_ARGUMENT: "),
        (lambda c: c.regress("examples", [{"x": 1}], "regress"), "INVALID_ARGUMENT: .*x.* expected type"),
        (lambda c: c.status("other"), "NOT_FOUND: Could not find any versions of model other"),
        (lambda c: c.metadata("other"), "NOT_FOUND: "),
        (lambda c: c.wait_until_ready("other", 0.3), "model other at .* is not ready after 0.3 s: NOT_FOUND"),
    ],
)
def test_errors_are_the_same(client, ask, message):
    with pytest.raises(ServingError, match=message):
        ask(client)


def test_what_cannot_be_sent_is_refused_here(client):
    with pytest.raises(TypeError, match="input text must hold numbers, str or bytes"):
        client.predict("toy", {"text": [None]})
    with pytest.raises(TypeError, match="feature x must hold numbers, str or bytes"):
        client.classify("examples", [{"x": 1j}])
    with pytest.raises(TypeError, match="feature x must be a value or a flat list"):
        client.classify("examples", [{"x": [[1.0]]}])


def test_the_deadline_is_for_one_call_or_for_all(addresses, protocol, kind):
    spin = ("toy", {"rounds": [1500]}, "spin")
    with kind(addresses[protocol], timeout=0.2) as client:
        with pytest.raises(ServingError, match=r"DEADLINE_EXCEEDED: no answer from .* within 0\.2 s"):
            client.predict(*spin)
        assert client.predict(*spin, timeout=60)["rounds"].tolist() == [1500]


def test_a_reload_is_for_grpc(addresses, kind, toy_path, examples_path, tmp_path):
    config = tmp_path / "models.config"
    with kind(addresses["grpc"]) as client:
        config.write_text(model_config(toy_path, examples_path, label="canary"))
        client.reload_config(config)
        assert client.predict("toy", {"text": ["a"]}, version="canary")["version"].tolist() == [1]
        config.write_text("model_config_list { config { name: 'toy' } }")
        with pytest.raises(ServingError, match="INVALID_ARGUMENT: Illegal setting neither"):
            client.reload_config(config)
        config.write_text(model_config(toy_path, examples_path))
        client.reload_config(str(config))
    with kind(addresses["rest"]) as client, pytest.raises(ServingError, match="UNIMPLEMENTED: REST has no method"):
        client.reload_config(config)


def test_many_async_calls_run_at_the_same_time_and_a_cancelled_one_ends_at_once(addresses, protocol):
    async def ask():
        async with AsyncClient(addresses[protocol]) as client:
            await client.predict("toy", {"text": ["first"]})
            slow = asyncio.create_task(client.predict("toy", {"rounds": [3000]}, "spin"))
            await asyncio.sleep(0.2)
            start = time.monotonic()
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            assert time.monotonic() - start < 0.5
            calls = [client.predict("toy", {"text": ["a" * n]}) for n in range(50)]
            return [outputs["length"].item() for outputs in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == list(range(50))


def test_a_client_is_shared_by_threads(addresses, protocol):
    with Client(addresses[protocol]) as client, ThreadPoolExecutor(8) as pool:
        lengths = pool.map(lambda n: client.predict("toy", {"text": ["a" * n]})["length"].item(), range(50))
        assert list(lengths) == list(range(50))


def test_codes_that_http_does_not_tell_apart_are_invalid_argument_over_rest(addresses):
    codes = {}
    for protocol, address in addresses.items():
        with Client(address) as client, pytest.raises(ServingError) as caught:
            client.predict("toy", {"text": ["a"]}, "unknown")
        codes[protocol] = caught.value.code
    assert codes == {"grpc": grpc.StatusCode.FAILED_PRECONDITION, "rest": grpc.StatusCode.INVALID_ARGUMENT}


def test_calls_are_spread_over_the_servers_behind_one_address(addresses, toy_address):
    answers = set()
    with Client(f"ipv4:{addresses['grpc']},{toy_address}") as client:
        client.wait_until_ready("toy")
        deadline = time.monotonic() + 30
        while len(answers) < 2 and time.monotonic() < deadline:
            try:
                answers.add(client.status("examples")[0].state)  # one of the two servers does not have it
            except ServingError as error:
                answers.add(error.code.name)
    assert answers == {"AVAILABLE", "NOT_FOUND"}


def test_a_name_is_an_address_too(addresses):
    with Client(addresses["grpc"].replace("127.0.0.1", "localhost")) as client:
        assert client.status("toy")[0].version == 1
