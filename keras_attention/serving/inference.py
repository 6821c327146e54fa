"""What a request asks of a version, apart from how it arrived: which signature runs on which inputs, and the answer.

Each `..._call` function checks a request against one loaded version, completely and before anything runs, and gives
what is to be run. The gRPC and the REST services run it through the version's queues, the warm-up runs it at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import grpc
import numpy as np
from google.protobuf.message import Message

from keras_attention.serving.errors import ServingError, invalid_argument
from keras_attention.serving.example_signatures import (
    CLASSIFY,
    REGRESS,
    check_classify,
    check_regress,
    read_examples,
    write_classification,
    write_regression,
)
from keras_attention.serving.protocol import (
    ClassificationRequest,
    InferenceTask,
    ModelSpec,
    MultiInferenceRequest,
    PredictRequest,
    RegressionRequest,
)
from keras_attention.serving.servable import DEFAULT_SIGNATURE, Servable
from keras_attention.serving.signature import Signature
from keras_attention.serving.tensor_codec import write_fields

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Run:
    """One run of a signature.

    Attributes:
        signature: what to run.
        inputs: its inputs, checked.
    """

    signature: Signature
    inputs: Mapping[str, np.ndarray]

    @property
    def rows(self) -> int:
        """How many examples there are: the entries of the first input, 1 for a scalar."""
        first = next(iter(self.inputs.values()), None)
        return 1 if first is None or first.ndim == 0 else len(first)


@dataclass(frozen=True)
class Call(Run):
    """One run of a signature and what becomes of it.

    Attributes:
        write: puts the outputs into the response (Predict, Classify, Regress) or into one of its results
            (MultiInference).
    """

    write: Callable[[Outputs, Message], None]


def predict_call(servable: Servable, request: PredictRequest) -> Call:
    """Checks a Predict request.

    Args:
        servable: the version that is to answer.
        request: the request; its model and version are not looked at.

    Returns:
        What to run; `write` takes a PredictResponse.

    Raises:
        ServingError: FAILED_PRECONDITION for an unknown signature, INVALID_ARGUMENT for inputs or an output filter that
            do not fit it.
    """
    signature = servable.signature(request.model_spec.signature_name)
    names = signature.select_outputs(request.output_filter)

    def write(outputs: Outputs, response: Message) -> None:
        for name in names:
            write_fields(outputs[name], response.outputs[name])

    return Call(signature, signature.read_inputs(request.inputs), write)


def classify_call(servable: Servable, request: ClassificationRequest) -> Call:
    """Checks a Classify request; as `predict_call`, and `write` takes a ClassificationResponse."""
    signature = _example_signature(servable, request.model_spec, "No signature was found with the name")
    check_classify(signature)
    inputs = read_examples(signature, request.input)
    rows = _rows(inputs)
    return Call(signature, inputs, lambda outputs, response: write_classification(outputs, rows, response.result))


def regress_call(servable: Servable, request: RegressionRequest) -> Call:
    """Checks a Regress request; as `predict_call`, and `write` takes a RegressionResponse."""
    signature = _example_signature(servable, request.model_spec, "No signature was found with the name")
    check_regress(signature)
    inputs = read_examples(signature, request.input)
    rows = _rows(inputs)
    return Call(signature, inputs, lambda outputs, response: write_regression(outputs, rows, response.result))


def multi_inference_calls(servable: Servable, request: MultiInferenceRequest) -> list[Call]:
    """Checks a MultiInference request.

    Args:
        servable: the version that is to answer.
        request: tasks on one list of examples.

    Returns:
        One call for each task, in order; `write` takes an InferenceResult.

    Raises:
        ServingError: INVALID_ARGUMENT or FAILED_PRECONDITION, if the tasks ask for several models, for a signature
            twice or for one that does not fit; UNIMPLEMENTED for another method than classify and regress.
    """
    signatures = _task_signatures(servable, request)
    calls = []
    for task, signature in zip(request.tasks, signatures, strict=True):
        inputs = read_examples(signature, request.input)
        calls.append(Call(signature, inputs, _result_writer(task, _rows(inputs))))
    return calls


def _task_signatures(servable: Servable, request: MultiInferenceRequest) -> list[Signature]:
    signatures: dict[str, Signature] = {}
    tensors = set()
    for task in request.tasks:
        if not task.model_spec.name:
            raise invalid_argument("Found ModelSpec with an empty model name.")
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if name in signatures:
            raise invalid_argument(f"Duplicate evaluation of signature: {name}")
        signature = _example_signature(servable, task.model_spec, "Requested signature not found in model graph")
        if task.method_name == CLASSIFY:
            check_classify(signature)
        elif task.method_name == REGRESS:
            check_regress(signature)
        else:
            raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
        signatures[name] = signature
        tensors.update(info.name for info in signature.definition.inputs.values())
        if len(tensors) > 1:
            raise invalid_argument("Input tensor must be the same for all Signatures.")
    return list(signatures.values())


def _result_writer(task: InferenceTask, rows: int) -> Callable[[Outputs, Message], None]:
    def write(outputs: Outputs, result: Message) -> None:
        if task.method_name == CLASSIFY:
            write_classification(outputs, rows, result.classification_result)
        else:
            write_regression(outputs, rows, result.regression_result)

    return write


def _example_signature(servable: Servable, spec: ModelSpec, unknown: str) -> Signature:
    name = spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signature_defs:
        raise invalid_argument(f"{unknown}: {name}")
    return servable.signature(name)


def _rows(inputs: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(inputs.values())))
