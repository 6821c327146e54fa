"""The gRPC services of TensorFlow Serving: PredictionService and ModelService, on a set of served models."""

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping

import grpc
from google.protobuf.message import DecodeError, Message

from keras_attention.serving.errors import ServingError, invalid_argument, not_found
from keras_attention.serving.loaded_version import LoadedVersion
from keras_attention.serving.protocol import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    PredictRequest,
    PredictResponse,
    SignatureDefMap,
)
from keras_attention.serving.served_model import ServedModel
from keras_attention.serving.tensor_codec import write_fields

_log = logging.getLogger(__name__)

# The message travels in a header, and clients refuse large ones: cut where TensorFlow Serving cuts.
_LONGEST_MESSAGE = 1024


def _answers(method: Callable[..., Awaitable[Message]]) -> Callable[..., Awaitable[Message]]:
    """Makes a method that raises ServingError into a gRPC handler that answers with that status."""

    @functools.wraps(method)
    async def handler(self, request: Message, context: grpc.aio.ServicerContext) -> Message:
        try:
            return await method(self, request)
        except ServingError as error:
            code, message = error.code, error.message
        except Exception as error:
            _log.exception("%s failed", method.__name__)
            code, message = grpc.StatusCode.INTERNAL, f"{method.__name__} failed with {type(error).__name__}"
        if len(message) > _LONGEST_MESSAGE:
            message = message[:_LONGEST_MESSAGE] + "...TRUNCATED"
        return await context.abort(code, message)

    return handler


def add_services(server: grpc.aio.Server, models: Mapping[str, ServedModel]) -> None:
    """Registers PredictionService and ModelService with the methods that are here.

    A method that is not here is left unregistered: gRPC answers UNIMPLEMENTED by itself, where the generated base
    classes would raise, and log a traceback for each call.

    Args:
        server: a server that has not started.
        models: the served models by name.
    """
    predictions, states = PredictionService(models), ModelService(models)
    server.add_registered_method_handlers(
        "tensorflow.serving.PredictionService",
        {
            "Predict": _unary(predictions.Predict, PredictRequest, PredictResponse),
            "GetModelMetadata": _unary(predictions.GetModelMetadata, GetModelMetadataRequest, GetModelMetadataResponse),
        },
    )
    server.add_registered_method_handlers(
        "tensorflow.serving.ModelService",
        {"GetModelStatus": _unary(states.GetModelStatus, GetModelStatusRequest, GetModelStatusResponse)},
    )


def _unary(method: Callable, request: type[Message], response: type[Message]) -> grpc.RpcMethodHandler:
    # Parsed here: from a deserializer that raises, gRPC logs a traceback for each such request.
    async def handler(content: bytes, context: grpc.aio.ServicerContext) -> Message:
        try:
            message = request.FromString(content)
        except DecodeError:
            await context.abort(grpc.StatusCode.INTERNAL, f"The request is no {request.DESCRIPTOR.full_name}")
        return await method(message, context)

    return grpc.unary_unary_rpc_method_handler(handler, None, response.SerializeToString)


class PredictionService:
    """TensorFlow Serving's PredictionService: Predict and GetModelMetadata.

    Args:
        models: the served models by name.
    """

    def __init__(self, models: Mapping[str, ServedModel]):
        self._models = models

    @_answers
    async def Predict(self, request: PredictRequest) -> PredictResponse:
        """Runs one signature on the request's inputs."""
        with _find(self._models, request).in_use() as loaded:
            signature = loaded.servable.signature(request.model_spec.signature_name)
            output_names = signature.select_outputs(request.output_filter)
            outputs = await loaded.run(signature, signature.read_inputs(request.inputs))
            response = PredictResponse()
            _write_spec(response.model_spec, request.model_spec.name, loaded.version, signature.name)
            for name in output_names:
                write_fields(outputs[name], response.outputs[name])
            return response

    @_answers
    async def GetModelMetadata(self, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
        """Describes the signatures of a version."""
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid_argument(f"Metadata field {field} is not supported")
        loaded = _find(self._models, request)
        response = GetModelMetadataResponse()
        _write_spec(response.model_spec, request.model_spec.name, loaded.version)
        signatures = SignatureDefMap(signature_def=loaded.servable.signature_defs)
        response.metadata["signature_def"].Pack(signatures)
        return response


class ModelService:
    """TensorFlow Serving's ModelService: GetModelStatus.

    Args:
        models: the served models by name.
    """

    def __init__(self, models: Mapping[str, ServedModel]):
        self._models = models

    @_answers
    async def GetModelStatus(self, request: GetModelStatusRequest) -> GetModelStatusResponse:
        """Tells the state of one version, or of every version of a model."""
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        spec = request.model_spec
        statuses = self._models[spec.name].statuses if spec.name in self._models else {}
        if spec.HasField("version"):
            if spec.version.value not in statuses:
                raise not_found(f"Could not find version {spec.version.value} of model {spec.name}")
            statuses = {spec.version.value: statuses[spec.version.value]}
        if not statuses:
            raise not_found(f"Could not find any versions of model {spec.name}")
        response = GetModelStatusResponse()
        for version, status in sorted(statuses.items(), reverse=True):
            entry = response.model_version_status.add(version=version, state=status.state)
            entry.status.SetInParent()
            if status.error:
                entry.status.error_code = status.error.code.value[0]
                entry.status.error_message = status.error.message
        return response


def _find(models: Mapping[str, ServedModel], request: PredictRequest | GetModelMetadataRequest) -> LoadedVersion:
    """Finds the version that a request asks for."""
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    spec = request.model_spec
    if not spec.name:
        raise invalid_argument("ModelSpec has no name specified.")
    if spec.version_label:
        raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
    version = spec.version.value if spec.HasField("version") else None
    loaded = models[spec.name].find(version) if spec.name in models else None
    if loaded is None:
        asked = f"Latest({spec.name})" if version is None else f"Specific({spec.name}, {version})"
        raise not_found(f"Servable not found for request: {asked}")
    return loaded


def _write_spec(spec: ModelSpec, name: str, version: int, signature_name: str = "") -> None:
    spec.name = name
    spec.version.value = version
    spec.signature_name = signature_name
