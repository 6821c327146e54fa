"""TensorFlow Serving's methods on a set of models, apart from how requests arrive: a request in, a response out.

The gRPC services call them and translate `ServingError` into a status; the REST services do the same with HTTP's.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message

from keras_attention.serving.errors import invalid_argument
from keras_attention.serving.inference import (
    Call,
    Outputs,
    Run,
    classify_call,
    multi_inference_calls,
    predict_call,
    regress_call,
)
from keras_attention.serving.loaded_version import LoadedVersion
from keras_attention.serving.model_manager import ModelManager
from keras_attention.serving.protocol import (
    ClassificationRequest,
    ClassificationResponse,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    MultiInferenceRequest,
    MultiInferenceResponse,
    PredictRequest,
    PredictResponse,
    RegressionRequest,
    RegressionResponse,
    ReloadConfigRequest,
    ReloadConfigResponse,
    SignatureDefMap,
)
from keras_attention.serving.servable import Servable

_AnyRun = TypeVar("_AnyRun", bound=Run)


async def predict(models: ModelManager, request: PredictRequest) -> PredictResponse:
    """Runs one signature on tensors.

    Args:
        models: the models in service.
        request: the request.

    Returns:
        The response, with the model, version and signature that gave it.

    Raises:
        ServingError: with TensorFlow Serving's status and message.
    """
    return await _infer(models, request, predict_call, PredictResponse(), "Predict")


async def classify(models: ModelManager, request: ClassificationRequest) -> ClassificationResponse:
    """Runs one signature of the method classify on tf.Examples; otherwise as `predict`."""
    return await _infer(models, request, classify_call, ClassificationResponse(), "Classify")


async def regress(models: ModelManager, request: RegressionRequest) -> RegressionResponse:
    """Runs one signature of the method regress on tf.Examples; otherwise as `predict`."""
    return await _infer(models, request, regress_call, RegressionResponse(), "Regress")


async def multi_inference(models: ModelManager, request: MultiInferenceRequest) -> MultiInferenceResponse:
    """Runs several signatures of one model, of the methods classify and regress, on the same tf.Examples.

    Args:
        models: the models in service.
        request: the request; the first task says which model and version.

    Returns:
        The response, with one result for each task in order.

    Raises:
        ServingError: with TensorFlow Serving's status and message.
    """
    spec = request.tasks[0].model_spec if request.tasks else ModelSpec()
    with models.find(spec).in_use() as loaded:
        calls = multi_inference_calls(loaded.servable, request)
        all_outputs = await asyncio.gather(*(_run(models, loaded, spec.name, call, "MultiInference") for call in calls))
        response = MultiInferenceResponse()
        for call, outputs in zip(calls, all_outputs, strict=True):
            result = response.results.add()
            _write_spec(result.model_spec, spec.name, loaded.version, call.signature.name)
            call.write(outputs, result)
        return response


async def get_model_metadata(models: ModelManager, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
    """Describes the signatures of a version.

    Args:
        models: the models in service.
        request: the request; `signature_def` is the one field that there is.

    Returns:
        The response.

    Raises:
        ServingError: with TensorFlow Serving's status and message.
    """
    _require_spec(request)
    if not request.metadata_field:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            raise invalid_argument(f"Metadata field {field} is not supported")
    loaded = models.find(request.model_spec)
    response = GetModelMetadataResponse()
    _write_spec(response.model_spec, request.model_spec.name, loaded.version)
    response.metadata["signature_def"].Pack(SignatureDefMap(signature_def=loaded.servable.signature_defs))
    return response


async def get_model_status(models: ModelManager, request: GetModelStatusRequest) -> GetModelStatusResponse:
    """Tells the state of one version, or of every version of a model, newest first.

    Args:
        models: the models in service.
        request: the request.

    Returns:
        The response, with the reason for a version that could not be loaded.

    Raises:
        ServingError: with TensorFlow Serving's status and message.
    """
    _require_spec(request)
    statuses = await models.overall_statuses(request.model_spec)
    response = GetModelStatusResponse()
    for version, status in sorted(statuses.items(), reverse=True):
        entry = response.model_version_status.add(version=version, state=status.state)
        entry.status.SetInParent()
        if status.error:
            entry.status.error_code = status.error.code.value[0]
            entry.status.error_message = status.error.message
    return response


async def reload_config(models: ModelManager, request: ReloadConfigRequest) -> ReloadConfigResponse:
    """Puts another configuration in force, as `ModelManager.reload` does, whether or not the caller waits for it.

    Args:
        models: the models in service.
        request: the whole new configuration.

    Returns:
        The response, when everything that it asks for is loaded.

    Raises:
        ServingError: as for `ModelManager.apply`.
    """
    await models.reload(request.config)
    response = ReloadConfigResponse()
    response.status.SetInParent()
    return response


async def infer(
    models: ModelManager, spec: ModelSpec, check: Callable[[Servable], _AnyRun], api: str
) -> tuple[_AnyRun, Outputs, int]:
    """Runs one signature, whatever form the request has.

    Args:
        models: the models in service.
        spec: which model and version.
        check: checks the request against the version, and gives what to run.
        api: the method, for the metrics.

    Returns:
        What `check` gave, its outputs, and the version.

    Raises:
        ServingError: with TensorFlow Serving's status and message.
    """
    with models.find(spec).in_use() as loaded:
        run = check(loaded.servable)
        return run, await _run(models, loaded, spec.name, run, api), loaded.version


async def _infer(
    models: ModelManager, request: Message, check: Callable[[Servable, Message], Call], response: Message, api: str
) -> Message:
    _require_spec(request)
    spec = request.model_spec
    call, outputs, version = await infer(models, spec, lambda servable: check(servable, request), api)
    _write_spec(response.model_spec, spec.name, version, call.signature.name)
    call.write(outputs, response)
    return response


async def _run(models: ModelManager, loaded: LoadedVersion, name: str, run: Run, api: str) -> Outputs:
    start = time.perf_counter()
    outputs = await loaded.run(run.signature, run.inputs)
    if models.metrics:
        models.metrics.record_run(name, api, run.rows, time.perf_counter() - start)
    return outputs


def _require_spec(request: Message) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


def _write_spec(spec: ModelSpec, name: str, version: int, signature_name: str = "") -> None:
    spec.name = name
    spec.version.value = version
    spec.signature_name = signature_name
