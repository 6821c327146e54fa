"""Several worker processes on one port act as one server; one that is killed takes only its own requests along."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from keras_attention.serving.supervisor import wait_before_restart
from tests.server_process import Server
from tests.serving.asking import TIMEOUT, predict_request, refusal, states, wait_until
from tests.serving.http_asking import Rest, free_port
from tests.serving.load import Load, connect
from tests.serving.processes import connections, is_running, workers_of
from tests.serving.test_metrics import PAGE, labels, parsed

# So many connections, each of which goes to either worker by chance, all go to the same one in one of 500,000 runs.
CONNECTIONS = 20


class Workers:
    """A server with two workers, a model config file, a REST API and metrics."""

    def __init__(self, base_path, folder, write_toy):
        self.base_path, self.write_toy = base_path, write_toy
        self.config_file = folder / "models.config"
        self.write_config("toy")
        (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
        rest_port = free_port()
        self.server = Server(
            None,
            "",
            folder / "log",
            "--num_workers=2",
            f"--model_config_file={self.config_file}",
            "--model_config_file_poll_wait_seconds=0.1",
            f"--rest_api_port={rest_port}",
            f"--monitoring_config_file={folder / 'monitoring.config'}",
            "--file_system_poll_wait_seconds=0.1",
        )
        self.rest = Rest(f"127.0.0.1:{rest_port}")

    def write_config(self, *names: str) -> None:
        self.config_file.write_text(text_format.MessageToString(self.config(*names)))

    def config(self, *names: str) -> ModelServerConfig:
        config = ModelServerConfig()
        for name in names:
            config.model_config_list.config.add(name=name, base_path=str(self.base_path), model_platform="tensorflow")
        return config

    def begin(self) -> None:
        self.line = self.server.wait_for_line()
        self.address = self.line.split(" at ")[1].split()[0]
        self.port = int(self.address.split(":")[1])

    @property
    def pids(self) -> set[int]:
        return workers_of(self.server.process.pid)

    def serving_pids(self) -> set[int]:
        """The workers that take requests, found by making connections."""
        channels = connect(self.address, CONNECTIONS)
        try:
            for channel in channels:
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
            return {pid for pid in self.pids if connections(pid, self.port)}
        finally:
            for channel in channels:
                channel.close()

    def counted(self) -> float:
        """The requests that the metrics page counts."""
        try:
            page = self.rest.get(PAGE)
        except ConnectionError:  # it was waiting in the queue of a worker that has been killed
            page = self.rest.get(PAGE)
        samples = parsed(page.body.decode())
        return samples.get(("request_count_total", *labels(model_name="toy", status="OK")), 0.0)


@pytest.fixture(scope="module")
def workers(tmp_path_factory, write_toy):
    folder = tmp_path_factory.mktemp("workers")
    (folder / "toy").mkdir()
    write_toy(folder / "toy", 1)
    workers = Workers(folder / "toy", folder, write_toy)
    try:
        workers.begin()
        yield workers
    finally:
        workers.server.close()


@pytest.fixture
def channels(workers):
    """Connections to both workers."""
    wait_until(lambda: len(workers.serving_pids()) == 2)
    channels = connect(workers.address, CONNECTIONS)
    yield channels
    for channel in channels:
        channel.close()


def predict(channel, spec: str = "name: 'toy'") -> list[int]:
    """The version that answers on a connection."""
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return list(stub.Predict(predict_request(spec, text=["a"]), timeout=TIMEOUT).outputs["version"].int_val)


def reload_config(channel, config: ModelServerConfig):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    return stub.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(config=config), timeout=TIMEOUT)


def test_two_workers_answer_on_one_port(workers, channels):
    assert workers.line.endswith(f" (gRPC), {workers.rest.address} (REST), 2 workers")
    assert [predict(channel) for channel in channels] == [[1]] * CONNECTIONS
    assert len(workers.pids) == 2
    counts = [connections(pid, workers.port) for pid in workers.pids]
    assert all(counts), counts
    # The supervisor needs no TensorFlow to tell them what to do.
    assert "tensorflow" not in Path(f"/proc/{workers.server.process.pid}/maps").read_text()
    request = health_pb2.HealthCheckRequest()
    for channel in channels:
        response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT)
        assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_a_reload_at_one_worker_is_in_force_in_both_when_it_is_answered(workers, channels):
    reload_config(channels[0], workers.config("toy", "second"))
    assert [predict(channel, "name: 'second'") for channel in channels] == [[1]] * CONNECTIONS
    for _ in range(4):
        assert workers.rest.get("/v1/models/second").json["model_version_status"][0]["state"] == "AVAILABLE"
    reload_config(channels[-1], workers.config("toy"))
    for channel in channels:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        code, message = refusal(stub.Predict, predict_request("name: 'second'", text=["a"]))
        assert (code, message) == (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(second)")
        # The last worker may be unloading it still.
        assert states(model_service_pb2_grpc.ModelServiceStub(channel), "second")[1] in ("UNLOADING", "END")


def test_a_malformed_reload_changes_no_worker(workers, channels):
    config = workers.config("third", "toy")
    config.model_config_list.config[1].base_path = "/nowhere"
    with pytest.raises(grpc.RpcError) as caught:
        reload_config(channels[0], config)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "Could not find base path /nowhere for servable toy"
    for channel in channels:
        assert predict(channel) == [1]
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert refusal(stub.Predict, predict_request("name: 'third'"))[0] is grpc.StatusCode.NOT_FOUND


def test_a_change_of_the_config_file_comes_into_force_in_both_workers(workers, channels):
    workers.write_config("toy", "second")
    wait_until(lambda: "the configuration in" in workers.server.log.read_text())
    assert [predict(channel, "name: 'second'") for channel in channels] == [[1]] * CONNECTIONS
    workers.config_file.write_text("nonsense")
    wait_until(lambda: "is no ModelServerConfig" in workers.server.log.read_text())
    assert [predict(channel, "name: 'second'") for channel in channels] == [[1]] * CONNECTIONS


def test_the_metrics_are_those_of_both_workers_and_stay_when_one_is_killed(workers, channels):
    before = workers.counted()
    for channel in channels:
        predict(channel)
    assert workers.counted() == workers.counted() == before + CONNECTIONS
    victim = min(workers.pids)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not is_running(victim))
    assert workers.counted() == before + CONNECTIONS
    wait_until(lambda: len(workers.serving_pids()) == 2)
    assert workers.counted() == before + CONNECTIONS


def test_a_killed_worker_takes_along_its_requests_in_flight_and_nothing_else(workers, channels):
    config = workers.config("toy", "second")
    config.model_config_list.config[0].version_labels["stable"] = 1
    reload_config(channels[0], config)
    victim = min(workers.pids)
    with Load(workers.address, CONNECTIONS, wait_for_ready=True) as load:
        wait_until(lambda: all(asked.answers for asked in load.asked))
        hit = connections(victim, workers.port)
        os.kill(victim, signal.SIGKILL)
        # The load takes the cores from the worker that comes up, and other tests may take them too.
        wait_until(lambda: victim not in workers.pids and len(workers.pids) == 2, seconds=120)
        # These connections go to the new worker too, without having been asked to.
        wait_until(lambda: all(connections(pid, workers.port) for pid in workers.pids), seconds=120)
    assert {code for code, _ in load.failures} <= {grpc.StatusCode.UNAVAILABLE}, load.failures
    assert sum(bool(asked.failures) for asked in load.asked) <= hit
    # The second may be sent before the client has noticed that the connection is broken.
    assert max(len(asked.failures) for asked in load.asked) <= 2, load.failures
    # What was reloaded before is in force in the new worker too.
    later = connect(workers.address, CONNECTIONS)
    for spec in ("name: 'second'", "name: 'toy' version_label: 'stable'"):
        assert [predict(channel, spec) for channel in later] == [[1]] * CONNECTIONS
    assert all(connections(pid, workers.port) for pid in workers.pids)
    for channel in later:
        channel.close()


def test_a_new_version_is_available_when_it_is_so_in_both_workers(workers, channels):
    models = model_service_pb2_grpc.ModelServiceStub(channels[0])
    workers.write_toy(workers.base_path, 2)
    wait_until(lambda: states(models, "toy").get(2) == "AVAILABLE")
    assert [predict(channel) for channel in channels] == [[2]] * CONNECTIONS
    broken = workers.base_path / "3"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"half a model")
    wait_until(lambda: states(models, "toy").get(3) == "END")
    assert [predict(channel) for channel in channels] == [[2]] * CONNECTIONS
    for _ in range(4):
        failed = workers.rest.get("/v1/models/toy/versions/3").json["model_version_status"][0]
        assert failed["state"] == "END"
        assert str(broken) in failed["status"]["error_message"]


def test_sigterm_drains_every_worker_and_exits_with_0(workers, channels):
    request = predict_request("name: 'toy' signature_name: 'spin'", rounds=[3000])
    pids = workers.pids
    with ThreadPoolExecutor(4) as pool:
        answers = [
            pool.submit(prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict, request, timeout=TIMEOUT)
            for channel in channels[:4]
        ]
        time.sleep(0.3)  # by then they run
        assert not any(answer.done() for answer in answers)
        assert workers.server.terminate() == 0
        for answer in answers:
            assert list(answer.result(TIMEOUT).outputs["rounds"].int_val) == [3000]
    assert not any(map(is_running, pids))


def test_workers_do_not_outlive_their_supervisor(start_server, toy_path):
    server = start_server(toy_path, "--num_workers=2")
    server.wait_for_line()
    pids = workers_of(server.process.pid)
    assert len(pids) == 2
    server.process.kill()
    wait_until(lambda: not any(map(is_running, pids)), seconds=15)


def test_a_worker_that_ends_before_all_are_in_service_is_one_line_and_exit_code_1(start_server, toy_path):
    server = start_server(toy_path, "--num_workers=2")
    wait_until(lambda: workers_of(server.process.pid))
    os.kill(min(workers_of(server.process.pid)), signal.SIGKILL)
    assert server.process.wait(TIMEOUT) == 1
    (line,) = [line for line in server.log.read_text().splitlines() if line.startswith("keras-attention: ")]
    assert line.removeprefix("keras-attention: worker ")[1:] == " ended before the server was up: SIGKILL"
    assert "Traceback" not in server.log.read_text()


def test_a_place_whose_workers_keep_ending_stays_empty_longer_and_longer():
    assert [wait_before_restart(short_lives) for short_lives in range(9)] == [0, 0, 1, 2, 4, 8, 16, 30, 30]
