"""The gRPC services of TensorFlow Serving: PredictionService and ModelService, on a set of models."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import grpc
from google.protobuf.message import DecodeError, Message

from keras_attention.serving import handlers
from keras_attention.serving.errors import ServingError
from keras_attention.serving.model_manager import ModelManager
from keras_attention.serving.protocol import (
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    MultiInferenceRequest,
    PredictRequest,
    RegressionRequest,
    ReloadConfigRequest,
)

_log = logging.getLogger(__name__)

# The message travels in a header, and clients refuse large ones: cut where TensorFlow Serving cuts.
_LONGEST_MESSAGE = 1024

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"

_METHODS = {
    PREDICTION_SERVICE: {
        "Predict": (handlers.predict, PredictRequest),
        "Classify": (handlers.classify, ClassificationRequest),
        "Regress": (handlers.regress, RegressionRequest),
        "MultiInference": (handlers.multi_inference, MultiInferenceRequest),
        "GetModelMetadata": (handlers.get_model_metadata, GetModelMetadataRequest),
    },
    MODEL_SERVICE: {
        "GetModelStatus": (handlers.get_model_status, GetModelStatusRequest),
        "HandleReloadConfigRequest": (handlers.reload_config, ReloadConfigRequest),
    },
}


# Requests for an answer of a model, which the metrics count.
_COUNTED = (PredictRequest, ClassificationRequest, RegressionRequest, MultiInferenceRequest)


class _GoneClients(logging.Filter):
    """Keeps back that an answer could not be sent: its client has gone, which gRPC logs with a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and type(record.exc_info[1]).__name__ == "ExecuteBatchError")


logging.getLogger("grpc._cython.cygrpc").addFilter(_GoneClients())


def add_services(server: grpc.aio.Server, models: ModelManager) -> None:
    """Registers PredictionService and ModelService.

    Args:
        server: a server that has not started.
        models: the models in service.
    """
    for service, methods in _METHODS.items():
        server.add_registered_method_handlers(
            service, {name: _unary(name, method, request, models) for name, (method, request) in methods.items()}
        )


def _unary(
    name: str,
    method: Callable[[ModelManager, Message], Awaitable[Message]],
    request_type: type[Message],
    models: ModelManager,
) -> grpc.RpcMethodHandler:
    counted = models.metrics is not None and request_type in _COUNTED

    def count(request: Message | None, code: grpc.StatusCode, start: float) -> None:
        if counted and request is not None:
            asked = models.known_name(_model_name(request))
            models.metrics.record_request(asked, name, "GRPC", code.name, time.perf_counter() - start)

    async def handler(content: bytes, context: grpc.aio.ServicerContext) -> bytes:
        start, request = time.perf_counter(), None
        try:
            # Parsed here: from a deserializer that raises, gRPC logs a traceback for each such request.
            request = request_type.FromString(content)
            response = (await method(models, request)).SerializeToString()
            count(request, grpc.StatusCode.OK, start)
            return response
        except asyncio.CancelledError:
            count(request, grpc.StatusCode.CANCELLED, start)
            raise
        except ServingError as error:
            code, message = error.code, error.message
        except DecodeError:
            code, message = grpc.StatusCode.INTERNAL, f"The request is no {request_type.DESCRIPTOR.full_name}"
        except Exception as error:
            _log.exception("%s failed", name)
            code, message = grpc.StatusCode.INTERNAL, f"{name} failed with {type(error).__name__}"
        count(request, code, start)
        if len(message) > _LONGEST_MESSAGE:
            message = message[:_LONGEST_MESSAGE] + "...TRUNCATED"
        return await context.abort(code, message)

    return grpc.unary_unary_rpc_method_handler(handler)


def _model_name(request: Message) -> str:
    if isinstance(request, MultiInferenceRequest):
        return request.tasks[0].model_spec.name if request.tasks else ""
    return request.model_spec.name
