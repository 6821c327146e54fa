"""Hot reloads while requests flow: none fails, each is answered by one version, and the memory stays as it is."""

import gc

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from tests.server_process import Server
from tests.serving.asking import wait_until
from tests.serving.load import Load
from tests.serving.processes import resident_bytes, workers_of

RELOADS = 10


@pytest.fixture(scope="module")
def base_paths(tmp_path_factory, write_toy):
    folder = tmp_path_factory.mktemp("reloads")
    for name, versions in (("one", (1, 2)), ("two", (11, 12))):
        (folder / name).mkdir()
        for version in versions:
            write_toy(folder / name, version)
    gc.collect()
    return folder


def config(folder, number: int) -> ModelServerConfig:
    """The configuration of a reload: each switches both models to their other version."""
    text = "model_config_list {"
    for name, first in (("one", 1), ("two", 11)):
        text += (
            f"config {{ name: '{name}' base_path: '{folder / name}' model_platform: 'tensorflow' "
            f"model_version_policy {{ specific {{ versions: {first + number % 2} }} }} }}"
        )
    return text_format.Parse(text + "}", ModelServerConfig())


@pytest.mark.parametrize("num_workers", [1, 2])
def test_ten_reloads_under_full_load(base_paths, tmp_path, num_workers):
    file = tmp_path / "models.config"
    file.write_text(text_format.MessageToString(config(base_paths, 0)))
    server = Server(None, "", tmp_path / "log", f"--model_config_file={file}", f"--num_workers={num_workers}")
    memory = []
    try:
        address = server.wait_for_address()
        server.wait_for_line()
        pids = workers_of(server.process.pid) if num_workers > 1 else {server.process.pid}
        with Load(address, 16, ("one", "two")) as load, grpc.insecure_channel(address) as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            for number in range(1, RELOADS + 1):
                request = model_management_pb2.ReloadConfigRequest(config=config(base_paths, number))
                assert stub.HandleReloadConfigRequest(request, timeout=60).status.error_code == 0
                before = load.answers
                wait_until(lambda before=before: load.answers > before + 100)
                memory.append(sum(map(resident_bytes, pids)))
    finally:
        server.close()
    assert load.failures == []
    versions = set().union(*(asked.versions for asked in load.asked))
    assert all(len(set(entry)) == 1 for entry in versions), versions
    assert {entry[0] for entry in versions} == {1, 2, 11, 12}
    assert memory[-1] < 1.1 * memory[1], memory
