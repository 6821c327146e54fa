"""The server as a process: health, reflection, its log, its end."""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from keras_attention.serving.client import Client
from keras_attention.serving.errors import ServingError
from tests.serving.asking import TIMEOUT, refusal
from tests.serving.http_asking import Rest, free_port


@pytest.fixture(scope="module")
def channel(toy_address):
    with grpc.insecure_channel(toy_address) as channel:
        yield channel


def test_reflection_lists_the_services_and_describes_their_methods(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    file = database.FindFileContainingSymbol("tensorflow.serving.PredictionService")
    assert {method.name for method in file.service[0].method} >= {"Predict", "Classify", "Regress", "MultiInference"}


def test_the_standard_health_service_says_serving(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "tensorflow.serving.PredictionService"):
        response = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
        assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_the_log_has_no_noise_from_tensorflow_and_no_traceback_for_bytes_that_are_no_request(start_server, toy_path):
    server = start_server(toy_path)
    with grpc.insecure_channel(server.wait_for_address()) as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        message = "The request is no tensorflow.serving.PredictRequest"
        assert refusal(predict, b"\xff\xff") == (grpc.StatusCode.INTERNAL, message)
    log = server.log.read_text()
    assert "Traceback" not in log
    assert all(" INFO " in line for line in log.splitlines()), log


def test_sigterm_answers_the_requests_in_flight_and_exits_with_0(start_server, toy_path, tmp_path):
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: false path: '/metrics' }")
    rest = Rest(f"127.0.0.1:{free_port()}")
    flags = (f"--rest_api_port={rest.address.split(':')[1]}", f"--monitoring_config_file={monitoring}")
    server = start_server(toy_path, *flags)
    body = {"signature_name": "spin", "instances": [1500]}
    with Client(server.wait_for_address()) as client, ThreadPoolExecutor(2) as pool:
        client.predict("toy", {"rounds": [1]}, signature="spin")
        assert rest.get("/metrics").code == rest.get("/monitoring/prometheus/metrics").code == 404
        answers = [
            pool.submit(client.predict, "toy", {"rounds": [1500]}, signature="spin"),
            pool.submit(rest.answer, "/v1/models/toy:predict", body),
        ]
        time.sleep(0.3)  # by then they run
        assert not any(answer.done() for answer in answers)
        assert server.terminate() == 0
        assert answers[0].result(timeout=TIMEOUT)["rounds"].tolist() == [1500]
        assert answers[1].result(timeout=TIMEOUT)["predictions"][0]["rounds"] == 1500
        with pytest.raises(ServingError, match="no server answers"):
            client.predict("toy", {"text": ["a"]})
        with pytest.raises(ConnectionRefusedError):
            rest.get("/v1/models/toy")
    log = server.log.read_text()
    assert all(" INFO " in line for line in log.splitlines()), log
