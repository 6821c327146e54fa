"""Predict, metadata and status over gRPC with the stock stubs: TensorFlow Serving's contract."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.serving.asking import TIMEOUT, predict_request, refusal

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT


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
