"""How the tests ask a server: requests for the stock stubs, and what comes back when a server refuses."""

import time

import grpc
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import get_model_status_pb2, input_pb2, predict_pb2

TIMEOUT = 30.0


def predict_request(spec: str = "name: 'toy'", output_filter=(), **inputs) -> predict_pb2.PredictRequest:
    """A Predict request, with the model spec in text format."""
    request = predict_pb2.PredictRequest(output_filter=output_filter)
    text_format.Parse(spec, request.model_spec)
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def example(**features: float) -> tf.train.Example:
    """A tf.Example with a number for each feature."""
    floats = {name: tf.train.Feature(float_list={"value": [value]}) for name, value in features.items()}
    return tf.train.Example(features={"feature": floats})


def example_list(*values: float) -> input_pb2.Input:
    """An input of examples with the feature x."""
    return input_pb2.Input(example_list={"examples": [example(x=value) for value in values]})


def refusal(method, request) -> tuple[grpc.StatusCode, str]:
    """The status and the message with which a method refuses a request."""
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=TIMEOUT)
    return caught.value.code(), caught.value.details()


def states(models, name: str) -> dict[int, str]:
    """The states of a model's versions; empty while the server knows none."""
    request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": name})
    try:
        entries = models.GetModelStatus(request, timeout=TIMEOUT).model_version_status
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
        return {}
    return {entry.version: get_model_status_pb2.ModelVersionStatus.State.Name(entry.state) for entry in entries}


def wait_until(condition, seconds: float = 30.0) -> None:
    """Waits for a condition, and fails if it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
