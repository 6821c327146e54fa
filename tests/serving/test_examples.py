"""Classify, Regress and MultiInference with the stock stubs."""

import grpc
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    regression_pb2,
)

from tests.serving.asking import TIMEOUT, example, example_list, predict_request, refusal

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT


def classification(signature: str = "", request_input=None) -> classification_pb2.ClassificationRequest:
    spec = {"name": "examples", "signature_name": signature}
    request_input = example_list(0.25, 1) if request_input is None else request_input
    return classification_pb2.ClassificationRequest(model_spec=spec, input=request_input)


def regression(signature: str) -> regression_pb2.RegressionRequest:
    spec = {"name": "examples", "signature_name": signature}
    return regression_pb2.RegressionRequest(model_spec=spec, input=example_list(0.25, 1))


def tasks(text: str) -> inference_pb2.MultiInferenceRequest:
    request = text_format.Parse(text, inference_pb2.MultiInferenceRequest())
    request.input.CopyFrom(example_list(0.25))
    return request


def test_classify_gives_the_labels_and_scores_of_each_example(predictions):
    response = predictions.Classify(classification(), timeout=TIMEOUT)
    rows = [[(c.label, c.score) for c in row.classes] for row in response.result.classifications]
    assert rows == [[("yes", 0.25), ("no", 0.75)], [("yes", 1.0), ("no", 0.0)]]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("examples", 1, "serving_default")


def test_classify_with_scores_alone_leaves_the_labels_empty(predictions):
    response = predictions.Classify(classification("only_scores"), timeout=TIMEOUT)
    assert [c.label for c in response.result.classifications[0].classes] == ["", ""]


def test_the_context_is_added_to_each_example(predictions):
    examples = [example(x=0.0), example(x=0.25)]
    request_input = input_pb2.Input(example_list_with_context={"examples": examples, "context": example(shift=0.5)})
    response = predictions.Classify(classification(request_input=request_input), timeout=TIMEOUT)
    assert [row.classes[0].score for row in response.result.classifications] == [0.5, 0.75]


@pytest.mark.parametrize("signature", ["regress", "regress_column"])
def test_regress_gives_a_value_for_each_example(predictions, signature):
    response = predictions.Regress(regression(signature), timeout=TIMEOUT)
    assert [row.value for row in response.result.regressions] == [0.5, 2.0]
    assert response.model_spec.signature_name == signature


def test_multi_inference_answers_each_task_in_order(predictions):
    request = tasks(
        "tasks { model_spec { name: 'examples' signature_name: 'regress' } method_name: 'tensorflow/serving/regress' }"
        "tasks { model_spec { name: 'examples' } method_name: 'tensorflow/serving/classify' }"
    )
    first, second = predictions.MultiInference(request, timeout=TIMEOUT).results
    assert [row.value for row in first.regression_result.regressions] == [0.5]
    assert second.classification_result.classifications[0].classes[0].score == 0.25
    assert [r.model_spec.signature_name for r in (first, second)] == ["regress", "serving_default"]


def test_predict_on_such_a_signature_takes_serialized_examples(predictions):
    request = predict_request("name: 'examples'", inputs=[example(x=0.25).SerializeToString()])
    assert predictions.Predict(request, timeout=TIMEOUT).outputs["scores"].float_val == [0.25, 0.75]


CLASSIFY = "Expected classification signature method_name to be tensorflow/serving/classify. Was: "
REGRESS = "Expected regression signature method_name to be tensorflow/serving/regress. Was: "


@pytest.mark.parametrize(
    ("method", "request_", "code", "message"),
    [
        ("Classify", classification_pb2.ClassificationRequest(), INVALID_ARGUMENT, "Missing ModelSpec"),
        ("Classify", classification(request_input=input_pb2.Input()), INVALID_ARGUMENT, "Input is empty."),
        ("Classify", classification("x"), INVALID_ARGUMENT, "No signature was found with the name: x"),
        ("Classify", classification("regress"), INVALID_ARGUMENT, CLASSIFY + "tensorflow/serving/regress"),
        ("Classify", classification("plain"), INVALID_ARGUMENT, CLASSIFY + "tensorflow/serving/predict"),
        (
            "Classify",
            classification("uneven"),
            INVALID_ARGUMENT,
            "Tensors class and score should match in dim_size(1). Got 2 vs. 3",
        ),
        (
            "Classify",
            classification("flat"),
            INVALID_ARGUMENT,
            "Expected Tensor shape: [batch_size num_classes] but got [2]",
        ),
        ("Regress", regression(""), INVALID_ARGUMENT, REGRESS + "tensorflow/serving/classify"),
        ("Regress", regression("x"), INVALID_ARGUMENT, "No signature was found with the name: x"),
        (
            "Regress",
            regression("regress_wide"),
            INVALID_ARGUMENT,
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,3]",
        ),
        ("MultiInference", tasks(""), INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (
            "MultiInference",
            tasks("tasks { model_spec { name: 'm' } method_name: 'tensorflow/serving/classify' }"),
            grpc.StatusCode.NOT_FOUND,
            "Servable not found for request: Latest(m)",
        ),
        (
            "MultiInference",
            tasks("tasks { model_spec { name: 'examples' } method_name: 'tensorflow/serving/predict' }"),
            grpc.StatusCode.UNIMPLEMENTED,
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
        (
            "MultiInference",
            tasks("tasks { model_spec { name: 'examples' } method_name: 'tensorflow/serving/classify' }" * 2),
            INVALID_ARGUMENT,
            "Duplicate evaluation of signature: serving_default",
        ),
        (
            "MultiInference",
            tasks(
                "tasks { model_spec { name: 'examples' } method_name: 'tensorflow/serving/classify' }"
                "tasks { model_spec { name: 'toy' } method_name: 'tensorflow/serving/classify' }"
            ),
            INVALID_ARGUMENT,
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            "MultiInference",
            tasks(
                "tasks { model_spec { name: 'examples' signature_name: 'x' } "
                "method_name: 'tensorflow/serving/classify' }"
            ),
            INVALID_ARGUMENT,
            "Requested signature not found in model graph: x",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused_as_in_tensorflow_serving(predictions, method, request_, code, message):
    assert refusal(getattr(predictions, method), request_) == (code, message)


def test_bytes_that_are_no_example_are_the_requests_fault(predictions):
    request = predict_request("name: 'examples'", inputs=tf.constant([b"\xff\xff"]))
    code, message = refusal(predictions.Predict, request)
    assert code == INVALID_ARGUMENT
    assert "Could not parse example input, value: '\N{REPLACEMENT CHARACTER}" in message
