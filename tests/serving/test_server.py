"""The server as a process, asked with the stock stubs: TensorFlow Serving's contract, merging, new versions."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from keras_attention.serving.client import Client
from keras_attention.serving.errors import ServingError

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
TIMEOUT = 30.0


@pytest.fixture(scope="module")
def channel(toy_address):
    unlimited = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(toy_address, options=unlimited) as channel:
        yield channel


@pytest.fixture(scope="module")
def predictions(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def predict_request(spec: str = "name: 'toy'", output_filter=(), **inputs) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(output_filter=output_filter)
    text_format.Parse(spec, request.model_spec)
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def refusal(method, request) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=TIMEOUT)
    return caught.value.code(), caught.value.details()


def wait_until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


SCALE = "name: 'toy' signature_name: 'scale'"
SIZE = "input size does not match signature"


REFUSALS = [
    (
        predict_request("name: 'm'", text=["a"]),
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(m)",
    ),
    (
        predict_request("name: 'toy' version: {value: 7}", text=["a"]),
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Specific(toy, 7)",
    ),
    (predict_request("signature_name: 'x'", text=["a"]), INVALID_ARGUMENT, "ModelSpec has no name specified."),
    (predict_pb2.PredictRequest(), INVALID_ARGUMENT, "Missing ModelSpec"),
    (
        predict_request("name: 'toy' version_label: 'x'", text=["a"]),
        INVALID_ARGUMENT,
        "Unrecognized servable version label: x",
    ),
    (
        predict_request("name: 'toy' signature_name: 'x'", text=["a"]),
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "x" not found.',
    ),
    (
        predict_request(),
        INVALID_ARGUMENT,
        f"{SIZE}: 0!=1 len({{}}) != len({{text}}). Sent extra: {{}}. Missing but required: {{text}}.",
    ),
    (
        predict_request(text=["a"], more=["b"]),
        INVALID_ARGUMENT,
        f"{SIZE}: 2!=1 len({{more,text}}) != len({{text}}). Sent extra: {{more}}. Missing but required: {{}}.",
    ),
    (
        predict_request(SCALE),
        INVALID_ARGUMENT,
        f"{SIZE}: 0!=2 len({{}}) != len({{factor,x}}). Sent extra: {{}}. Missing but required: {{x}}.",
    ),
    (
        predict_request(text=["a"], output_filter=["x"]),
        INVALID_ARGUMENT,
        "output tensor alias not found in signature: x "
        "Outputs expected to be in the set {folded,length,raw_bytes,version}.",
    ),
    (
        predict_request(text=["a"], output_filter=["folded", "folded"]),
        INVALID_ARGUMENT,
        "duplicate output tensor alias: folded",
    ),
    (predict_request(text=[1.0]), INVALID_ARGUMENT, "Expects arg[0] to be string but float is provided"),
    (
        predict_request(text=[["a"]]),
        INVALID_ARGUMENT,
        "Input text of signature serving_default expects shape [?] but [1,1] is provided",
    ),
    (
        predict_request(SCALE, x=[[1.0, 2.0, 3.0]]),
        INVALID_ARGUMENT,
        "Input x of signature scale expects shape [?,2] but [1,3] is provided",
    ),
]


@pytest.mark.parametrize(("request_", "code", "message"), REFUSALS, ids=[message for _, _, message in REFUSALS])
def test_a_request_that_cannot_be_answered_gets_the_status_and_message_of_tensorflow_serving(
    predictions, request_, code, message
):
    assert refusal(predictions.Predict, request_) == (code, message)


def test_a_message_too_long_for_a_header_is_cut(predictions):
    code, message = refusal(predictions.Predict, predict_request(f"name: '{'m' * 50_000}'", text=["a"]))
    assert code == grpc.StatusCode.NOT_FOUND
    assert message.startswith("Servable not found for request: Latest(mmm")
    assert message.endswith("m...TRUNCATED")


def test_a_tensor_that_cannot_be_read_is_the_requests_fault(predictions):
    request = predict_request(SCALE, x=np.ones([1, 2], np.float32))
    request.inputs["x"].tensor_content = b"short"
    code, message = refusal(predictions.Predict, request)
    assert code == INVALID_ARGUMENT
    assert message.startswith("tensor parsing error: x")


def test_a_computation_that_fails_answers_tensorflows_own_status_and_no_traceback(predictions):
    code, message = refusal(predictions.Predict, predict_request("name: 'toy' signature_name: 'picky'", text=["bad"]))
    assert code == INVALID_ARGUMENT
    assert "no bad text, please" in message
    assert "Traceback" not in message


def test_an_answer_names_the_model_the_version_and_the_signature(predictions):
    spec = predictions.Predict(predict_request(text=["a"]), timeout=TIMEOUT).model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("toy", 1, "serving_default")


def test_a_version_can_be_asked_for_by_number(predictions):
    request = predict_request("name: 'toy' version: {value: 1}", text=["a"])
    assert predictions.Predict(request, timeout=TIMEOUT).outputs["version"].int_val == [1]


def test_answers_carry_typed_values_which_clients_of_tensorflow_serving_read(predictions):
    outputs = predictions.Predict(predict_request(text=["Ab", "C"]), timeout=TIMEOUT).outputs
    assert outputs["folded"].string_val == [b"ab", b"c"]
    assert outputs["length"].int_val == [2, 1]
    scaled = predictions.Predict(predict_request(SCALE, x=np.float32([[1, 2]])), timeout=TIMEOUT).outputs
    assert scaled["y"].float_val == [2, 4]


def test_an_output_filter_selects_the_outputs(predictions):
    request = predict_request(text=["a"], output_filter=["length"])
    assert set(predictions.Predict(request, timeout=TIMEOUT).outputs) == {"length"}


def test_a_short_list_of_values_repeats_its_last_one_as_in_tensorflow(predictions):
    request = predict_request(SCALE)
    text = "dtype: DT_FLOAT tensor_shape { dim { size: 2 } dim { size: 2 } } float_val: [1, 3]"
    text_format.Parse(text, request.inputs["x"])
    assert predictions.Predict(request, timeout=TIMEOUT).outputs["y"].float_val == [2, 6, 6, 6]


def test_an_input_left_out_takes_its_default_for_every_row(predictions):
    x = np.ones([3, 2], np.float32)
    by_default = predictions.Predict(predict_request(SCALE, x=x), timeout=TIMEOUT)
    given = predictions.Predict(predict_request(SCALE, x=x, factor=np.float32([1, 2, 3])), timeout=TIMEOUT)
    assert by_default.outputs["y"].float_val == [2] * 6
    assert given.outputs["y"].float_val == [1, 1, 2, 2, 3, 3]


def test_long_and_strange_strings_pass(predictions):
    texts = [b"x" * 100_000, b"\xff\xfe\x00", b"", "\N{GRINNING FACE}".encode(), b"ends with NUL\0"]
    outputs = predictions.Predict(predict_request(text=np.array(texts, object)), timeout=TIMEOUT).outputs
    assert list(outputs["raw_bytes"].string_val) == texts


def test_messages_over_grpcs_usual_four_megabytes_pass(predictions):
    outputs = predictions.Predict(predict_request(text=["y" * 6_000_000]), timeout=TIMEOUT).outputs
    assert outputs["length"].int_val == [6_000_000]


def test_signatures_of_fixed_batch_size_are_run_alone(predictions):
    request = predict_request("name: 'toy' signature_name: 'fixed'", x=np.ones([2, 2], np.float32))
    assert predictions.Predict(request, timeout=TIMEOUT).outputs["y"].float_val == [2] * 4
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.ones([1, 2], np.float32)))
    message = "Input x of signature fixed expects shape [2,2] but [1,2] is provided"
    assert refusal(predictions.Predict, request) == (INVALID_ARGUMENT, message)


def test_metadata_holds_the_signatures(predictions):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "toy"
    response = predictions.GetModelMetadata(request, timeout=TIMEOUT)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert (response.model_spec.name, response.model_spec.version.value) == ("toy", 1)
    assert set(signatures.signature_def["scale"].inputs) == {"x", "factor"}


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (
            "model_spec { name: 'toy' }",
            INVALID_ARGUMENT,
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        (
            "model_spec { name: 'toy' } metadata_field: 'x'",
            INVALID_ARGUMENT,
            "Metadata field x is not supported",
        ),
        ("metadata_field: 'signature_def'", INVALID_ARGUMENT, "Missing ModelSpec"),
        (
            "model_spec { name: 'm' } metadata_field: 'signature_def'",
            grpc.StatusCode.NOT_FOUND,
            "Servable not found for request: Latest(m)",
        ),
    ],
)
def test_metadata_that_cannot_be_given_is_refused_as_in_tensorflow_serving(predictions, request_, code, message):
    request = text_format.Parse(request_, get_model_metadata_pb2.GetModelMetadataRequest())
    assert refusal(predictions.GetModelMetadata, request) == (code, message)


@pytest.mark.parametrize("spec", ["name: 'toy'", "name: 'toy' version: {value: 1}"])
def test_status_tells_that_the_version_is_available(models, spec):
    request = text_format.Parse(f"model_spec {{ {spec} }}", get_model_status_pb2.GetModelStatusRequest())
    (entry,) = models.GetModelStatus(request, timeout=TIMEOUT).model_version_status
    assert (entry.version, entry.state, entry.status.error_code) == (1, entry.AVAILABLE, 0)


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (
            "model_spec { name: 'toy' version: {value: 7} }",
            grpc.StatusCode.NOT_FOUND,
            "Could not find version 7 of model toy",
        ),
        ("model_spec { name: 'm' }", grpc.StatusCode.NOT_FOUND, "Could not find any versions of model m"),
        ("", INVALID_ARGUMENT, "Missing ModelSpec"),
    ],
)
def test_the_status_of_what_is_unknown_is_refused_as_in_tensorflow_serving(models, request_, code, message):
    request = text_format.Parse(request_, get_model_status_pb2.GetModelStatusRequest())
    assert refusal(models.GetModelStatus, request) == (code, message)


def test_methods_that_are_not_here_answer_unimplemented(predictions, models):
    calls = [
        (predictions.Classify, classification_pb2.ClassificationRequest()),
        (predictions.Regress, regression_pb2.RegressionRequest()),
        (predictions.MultiInference, inference_pb2.MultiInferenceRequest()),
        (models.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest()),
    ]
    assert {refusal(method, request)[0] for method, request in calls} == {grpc.StatusCode.UNIMPLEMENTED}


def test_the_standard_health_service_says_serving(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "tensorflow.serving.PredictionService"):
        response = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
        assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_each_of_32_concurrent_clients_gets_its_own_rows(client):
    def ask(number):
        for attempt in range(10):
            texts = [f"{number}-{attempt}-{row}" for row in range(1 + number % 3)]
            assert client.predict("toy", {"text": texts})["folded"].tolist() == texts

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(ask, range(32), timeout=60))


def test_a_bad_request_does_not_disturb_those_it_was_merged_with(client):
    def ask(number):
        if number % 4:
            texts = [f"good {number}"]
            return client.predict("toy", {"text": texts}, signature="picky")["text"].tolist() == texts
        with pytest.raises(ServingError, match="no bad text, please"):
            client.predict("toy", {"text": ["bad"]}, signature="picky")
        return True

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(ask, range(200), timeout=60))


def test_outputs_without_one_entry_per_row_are_never_split(client):
    def ask(number):
        texts = [f"{number}", f"{number}", "same"]
        values = client.predict("toy", {"text": texts}, signature="distinct")["values"]
        return values.tolist() == [f"{number}", "same"]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(100), timeout=60))


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


def test_the_log_has_no_noise_from_tensorflow_and_no_traceback_for_bytes_that_are_no_request(start_server, toy_path):
    server = start_server(toy_path)
    with grpc.insecure_channel(server.wait_for_address()) as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        message = "The request is no tensorflow.serving.PredictRequest"
        assert refusal(predict, b"\xff\xff") == (grpc.StatusCode.INTERNAL, message)
    log = server.log.read_text()
    assert "Traceback" not in log
    assert all(" INFO " in line for line in log.splitlines()), log


def test_sigterm_answers_the_requests_in_flight_and_exits_with_0(start_server, toy_path):
    server = start_server(toy_path)
    with Client(server.wait_for_address()) as client, ThreadPoolExecutor(1) as pool:
        client.predict("toy", {"rounds": [1]}, signature="spin")
        answer = pool.submit(client.predict, "toy", {"rounds": [1500]}, signature="spin")
        time.sleep(0.3)  # by then it runs
        assert not answer.done()
        assert server.terminate() == 0
        assert answer.result(timeout=TIMEOUT)["rounds"].tolist() == [1500]
        with pytest.raises(ServingError, match="no server answers"):
            client.predict("toy", {"text": ["a"]})
