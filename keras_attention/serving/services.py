"""The gRPC services of TensorFlow Serving: PredictionService and ModelService, on a set of models."""

import logging
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
    async def handler(content: bytes, context: grpc.aio.ServicerContext) -> bytes:
        try:
            # Parsed here: from a deserializer that raises, gRPC logs a traceback for each such request.
            response = await method(models, request_type.FromString(content))
            return response.SerializeToString()
        except ServingError as error:
            code, message = error.code, error.message
        except DecodeError:
            code, message = grpc.StatusCode.INTERNAL, f"The request is no {request_type.DESCRIPTOR.full_name}"
        except Exception as error:
            _log.exception("%s failed", name)
            code, message = grpc.StatusCode.INTERNAL, f"{name} failed with {type(error).__name__}"
        if len(message) > _LONGEST_MESSAGE:
            message = message[:_LONGEST_MESSAGE] + "...TRUNCATED"
        return await context.abort(code, message)

    return grpc.unary_unary_rpc_method_handler(handler)
