"""Classify and Regress: signatures that take tf.Examples, with TensorFlow Serving's checks and messages.

A signature of the method ``tensorflow/serving/classify`` or ``tensorflow/serving/regress`` has one input, ``inputs``,
of serialized tf.Examples; what it gives is put into a result message, one entry for each example.
"""

from collections.abc import Mapping

import numpy as np

from keras_attention.serving.errors import failed_precondition, invalid_argument
from keras_attention.serving.protocol import ClassificationResult, Input, RegressionResult
from keras_attention.serving.signature import Signature
from keras_attention.serving.tensor_codec import data_type_name

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

_INPUTS, _CLASSES, _SCORES, _REGRESSION = "inputs", "classes", "scores", "outputs"


def read_examples(signature: Signature, request_input: Input) -> dict[str, np.ndarray]:
    """Takes the examples of a request as the signature's input.

    Args:
        signature: one that `check_classify` or `check_regress` has let pass.
        request_input: an `example_list`, or an `example_list_with_context`, whose context is added to every example.

    Returns:
        The input by name, [B] serialized examples.

    Raises:
        ServingError: INVALID_ARGUMENT, if there are none or the signature takes no strings.
    """
    kind = request_input.WhichOneof("kind")
    examples = getattr(request_input, kind).examples if kind else ()
    if not examples:
        raise invalid_argument("Input is empty.")
    # Two messages one after the other are, in protobuf's encoding, the two merged.
    context = request_input.example_list_with_context.context.SerializeToString() if kind.endswith("context") else b""
    return signature.read_text([context + example.SerializeToString() for example in examples])


def check_classify(signature: Signature) -> None:
    """Checks that a signature can be asked to classify.

    Raises:
        ServingError: INVALID_ARGUMENT or FAILED_PRECONDITION, if it is of another method, has not one input named
            inputs, or has other outputs than classes, scores or both.
    """
    definition = signature.definition
    _check_method(signature, "classification", CLASSIFY)
    if len(definition.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(definition.outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(definition.outputs)}")
    if _INPUTS not in definition.inputs:
        raise failed_precondition(f"No classification inputs found in SignatureDef: {_described(signature)}")
    if _CLASSES not in definition.outputs and _SCORES not in definition.outputs:
        raise failed_precondition(
            f'Expected classification signature outputs to contain at least one of "{_CLASSES}" or "{_SCORES}". '
            f"Signature was: {_described(signature)}"
        )


def check_regress(signature: Signature) -> None:
    """Checks that a signature can be asked to regress.

    Raises:
        ServingError: INVALID_ARGUMENT or FAILED_PRECONDITION, if it is of another method or has not one input named
            inputs and one output named outputs.
    """
    definition = signature.definition
    _check_method(signature, "regression", REGRESS)
    if len(definition.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(definition.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    if _INPUTS not in definition.inputs:
        raise failed_precondition(f"No regression inputs found in SignatureDef: {_described(signature)}")
    if _REGRESSION not in definition.outputs:
        raise failed_precondition(f"No regression outputs found in SignatureDef: {_described(signature)}")


def write_classification(outputs: Mapping[str, np.ndarray], examples: int, result: ClassificationResult) -> None:
    """Puts a signature's outputs into a result.

    Args:
        outputs: `classes` and `scores`, [B, classes], or one of them.
        examples: how many examples there were.
        result: an empty result, which is filled.

    Raises:
        ServingError: INVALID_ARGUMENT, if an output has another shape or type.
    """
    classes, scores = outputs.get(_CLASSES), outputs.get(_SCORES)
    for name, array, dtype in ((_CLASSES, classes, "DT_STRING"), (_SCORES, scores, "DT_FLOAT")):
        if array is None:
            continue
        if array.ndim != 2:
            raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}")
        if data_type_name(array) != dtype:
            raise invalid_argument(f"Expected {name} Tensor of {dtype}. Got: {data_type_name(array)}")
        if len(array) != examples:
            raise invalid_argument(f"Expected {name} output batch size of {examples}. Got: {len(array)}")
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise invalid_argument(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    labels = None if classes is None else classes.tolist()
    values = None if scores is None else scores.tolist()
    width = (classes if classes is not None else scores).shape[1]
    for row in range(examples):
        entries = result.classifications.add().classes
        for column in range(width):
            entry = entries.add()
            if labels is not None:
                entry.label = _as_label(labels[row][column])
            if values is not None:
                entry.score = values[row][column]


def write_regression(outputs: Mapping[str, np.ndarray], examples: int, result: RegressionResult) -> None:
    """Puts a signature's output into a result.

    Args:
        outputs: `outputs`, [B] or [B, 1].
        examples: how many examples there were.
        result: an empty result, which is filled.

    Raises:
        ServingError: INVALID_ARGUMENT, if the output has another shape or type.
    """
    values = outputs[_REGRESSION]
    if values.ndim != 1 and not (values.ndim == 2 and values.shape[1] == 1):
        raise invalid_argument(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(values)}"
        )
    if len(values) != examples:
        raise invalid_argument(f"Input batch size did not match output batch size: {examples} vs. {len(values)}")
    if data_type_name(values) != "DT_FLOAT":
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {data_type_name(values)}")
    for value in values.ravel().tolist():
        result.regressions.add(value=value)


def _check_method(signature: Signature, kind: str, method: str) -> None:
    if signature.definition.method_name != method:
        raise invalid_argument(
            f"Expected {kind} signature method_name to be {method}. Was: {signature.definition.method_name}"
        )


def _described(signature: Signature) -> str:
    return " ".join(str(signature.definition).split())


def _shape(array: np.ndarray) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


def _as_label(label: bytes) -> str:
    # The message has a string where the tensor has bytes; bytes that are no UTF-8 could not be sent.
    return label.decode("utf-8", "replace")
