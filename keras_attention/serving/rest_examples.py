"""Classify and Regress in JSON: objects into tf.Examples, results into lists."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_attention.serving.errors import invalid_argument
from keras_attention.serving.protocol import (
    ClassificationRequest,
    ClassificationResponse,
    DataType,
    Example,
    ModelSpec,
    RegressionRequest,
    RegressionResponse,
)
from keras_attention.serving.rest_json import describe, type_name
from keras_attention.serving.rest_output import to_json
from keras_attention.serving.rest_predict import read_signature_name
from keras_attention.serving.rest_tensors import check_array, is_base64, read_array

_FLOAT, _STRING = DataType.Value("DT_FLOAT"), DataType.Value("DT_STRING")
_LARGEST_INT64 = 2**63 - 1
_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def fill_request(document: Mapping[str, Any], spec: ModelSpec, request: ClassificationRequest | RegressionRequest):
    """Fills a request from the body of a classify or regress request.

    Args:
        document: ``{"examples": [...]}``, an object of features for each, and perhaps a `context` with the features
            that they share.
        spec: the model and version that the path names.
        request: an empty request, which is filled.

    Returns:
        The request.

    Raises:
        ServingError: INVALID_ARGUMENT, if the body has no examples or a feature cannot be one of a tf.Example.
    """
    request.model_spec.CopyFrom(spec)
    request.model_spec.signature_name = read_signature_name(document)
    examples = request.input.example_list
    if "context" in document:
        examples = request.input.example_list_with_context
        _fill_example(document["context"], examples.context)
        examples.context.SetInParent()
    if "examples" not in document:
        raise invalid_argument(
            f"JSON Value: {describe(document)} When method is classify, key 'examples' is expected and was not found"
        )
    values = document["examples"]
    if type(values) is not list:
        raise invalid_argument(f"JSON Value: {describe(document)} Expecting 'examples' value to be an list/array")
    if not values:
        raise invalid_argument(f"JSON Value: {describe(document)} 'examples' value is an empty array")
    for value in values:
        _fill_example(value, examples.examples.add())
    return request


def write_classifications(response: ClassificationResponse) -> bytes:
    """Writes a list of pairs, label and score, for each example."""
    results = [
        [[entry.label, np.float32(entry.score)] for entry in classification.classes]
        for classification in response.result.classifications
    ]
    return to_json({"results": results})


def write_regressions(response: RegressionResponse) -> bytes:
    """Writes a number for each example."""
    return to_json({"results": np.array([entry.value for entry in response.result.regressions], np.float32)})


def _fill_example(value: Any, example: Example) -> None:
    if type(value) is not dict:
        raise invalid_argument(f"Example must be JSON object but got JSON {type_name(value)}")
    for name, content in value.items():
        feature = example.features.feature[name]
        for element in content if type(content) is list else [content]:
            _add(element, name, feature)


def _add(element: Any, name: str, feature) -> None:
    # The first element says which kind of list the feature is; whole numbers are no floats here.
    if type(element) is bool:
        _list(feature, name, "int64_list").append(int(element))
    elif type(element) is str or is_base64(element):
        values = _list(feature, name, "bytes_list")
        array = read_array(element, _STRING)
        if array is None:
            check_array(element, _STRING)
        values.append(array.item())
    elif type(element) is float:
        values = _list(feature, name, "float_list")
        array = read_array(element, _FLOAT)
        if array is None:
            check_array(element, _FLOAT)
        values.append(array.item())
    elif type(element) is int:
        values = _list(feature, name, "int64_list")
        if element > _LARGEST_INT64:
            raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
        values.append(element)
    else:
        raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {type_name(element)}")


def _list(feature, name: str, kind: str):
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        raise invalid_argument(f"Unexpected element type in feature: {name} expecting type: {_KINDS[present]}")
    return getattr(feature, kind).value
