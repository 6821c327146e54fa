"""The client's side of TensorFlow Serving's gRPC: what is asked, and the channels that it is asked through."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import ArrayLike

from keras_attention.serving.client_steps import (
    FIRST_WAIT,
    LONGEST_WAIT,
    WAIT_GROWTH,
    Conversation,
    unreachable,
)
from keras_attention.serving.client_tls import Tls, channel_credentials
from keras_attention.serving.client_values import (
    ModelVersion,
    ScoredClass,
    as_arrays,
    as_example,
    as_features,
    as_outputs,
    as_versions,
    describe,
)
from keras_attention.serving.errors import ServingError
from keras_attention.serving.protocol import (
    UNLIMITED_MESSAGES,
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelServerConfig,
    ModelServiceStub,
    ModelSpec,
    PredictionServiceStub,
    PredictRequest,
    RegressionRequest,
    ReloadConfigRequest,
    SignatureDefMap,
)
from keras_attention.serving.tensor_codec import decode, write_packed

# A server that starts is reached soon after; gRPC's own waits between attempts grow to two minutes.
_RECONNECT_SOON = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000))
# A request that does not fit the buffer is not sent again; gRPC's own one has 256 kB.
_RETRY_EVERY_SIZE = ("grpc.per_rpc_retry_buffer_size", 2**31 - 1)
_SERVICES = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")


@dataclass(frozen=True)
class GrpcCall:
    """One call.

    Attributes:
        method: the method's name in PredictionService or ModelService.
        request: its request.
    """

    method: str
    request: Message


class GrpcConversations:
    """What is asked over gRPC; the methods are those of `Client`, and give conversations."""

    def predict(
        self, model: str, inputs: Mapping[str, ArrayLike], signature: str, version: int | str | None
    ) -> Conversation[dict[str, np.ndarray]]:
        """As `Client.predict`."""
        request = PredictRequest(model_spec=_spec(model, version, signature))
        for name, array in as_arrays(inputs).items():
            write_packed(array, request.inputs[name])
        response = yield GrpcCall("Predict", request)
        return as_outputs({name: decode(tensor) for name, tensor in response.outputs.items()})

    def classify(
        self, model: str, examples: Sequence[Mapping[str, ArrayLike]], signature: str, version: int | str | None
    ) -> Conversation[list[list[ScoredClass]]]:
        """As `Client.classify`."""
        request = ClassificationRequest(model_spec=_spec(model, version, signature))
        request.input.example_list.examples.extend(map(as_example, as_features(examples)))
        response = yield GrpcCall("Classify", request)
        return [[ScoredClass(c.label, c.score) for c in row.classes] for row in response.result.classifications]

    def regress(
        self, model: str, examples: Sequence[Mapping[str, ArrayLike]], signature: str, version: int | str | None
    ) -> Conversation[np.ndarray]:
        """As `Client.regress`."""
        request = RegressionRequest(model_spec=_spec(model, version, signature))
        request.input.example_list.examples.extend(map(as_example, as_features(examples)))
        response = yield GrpcCall("Regress", request)
        return np.array([row.value for row in response.result.regressions], np.float32)

    def status(self, model: str) -> Conversation[list[ModelVersion]]:
        """As `Client.status`."""
        return as_versions((yield GrpcCall("GetModelStatus", GetModelStatusRequest(model_spec=_spec(model)))))

    def metadata(self, model: str, version: int | str | None) -> Conversation[dict[str, dict[str, Any]]]:
        """As `Client.metadata`."""
        request = GetModelMetadataRequest(model_spec=_spec(model, version), metadata_field=["signature_def"])
        response = yield GrpcCall("GetModelMetadata", request)
        signatures = SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return describe(signatures.signature_def)

    def reload_config(self, config: ModelServerConfig) -> Conversation[None]:
        """As `Client.reload_config`."""
        response = yield GrpcCall("HandleReloadConfigRequest", ReloadConfigRequest(config=config))
        if response.status.error_code:
            code = next(code for code in grpc.StatusCode if code.value[0] == response.status.error_code)
            raise ServingError(code, response.status.error_message)


def _spec(model: str, version: int | str | None = None, signature: str = "") -> ModelSpec:
    spec = ModelSpec(name=model, signature_name=signature)
    if isinstance(version, str):
        spec.version_label = version
    elif version is not None:
        spec.version.value = version
    return spec


class GrpcTransport:
    """Sends calls through a channel.

    Args:
        address: host and port, or ``unix:`` and a path.
        tls: how to encrypt; None for not at all.
        retries: how often gRPC repeats a call while the server is UNAVAILABLE.
    """

    def __init__(self, address: str, tls: Tls | None, retries: int):
        self.address = address
        self._channel = _open(grpc, address, tls, retries)
        self._stubs = (PredictionServiceStub(self._channel), ModelServiceStub(self._channel))

    def send(self, step: GrpcCall, timeout: float) -> Message:
        """Makes a call.

        Args:
            step: the call.
            timeout: seconds for it, with its retries.

        Returns:
            The response.

        Raises:
            ServingError: with the status and the message of what went wrong.
            TimeoutError: if there was no answer in time.
        """
        try:
            return _method(self._stubs, step)(step.request, timeout=timeout)
        except grpc.RpcError as error:
            raise _translated(error, self.address) from None

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()


class AsyncGrpcTransport:
    """As `GrpcTransport`, with coroutines; it belongs to the event loop in which it is first used."""

    def __init__(self, address: str, tls: Tls | None, retries: int):
        self.address = address
        self._settings = (tls, retries)
        self._channel = None

    async def send(self, step: GrpcCall, timeout: float) -> Message:
        """As `GrpcTransport.send`."""
        if self._channel is None:  # not earlier: a channel takes the loop that runs when it is opened
            self._channel = _open(grpc.aio, self.address, *self._settings)
            self._stubs = (PredictionServiceStub(self._channel), ModelServiceStub(self._channel))
        try:
            return await _method(self._stubs, step)(step.request, timeout=timeout)
        except grpc.RpcError as error:
            raise _translated(error, self.address) from None

    async def close(self) -> None:
        """Closes the channel."""
        if self._channel is not None:
            await self._channel.close()


def _open(library, address: str, tls: Tls | None, retries: int):
    # Of the servers behind one address each gets its share, not the first one all.
    service_config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if retries:
        policy = {
            "maxAttempts": 1 + retries,
            "initialBackoff": f"{FIRST_WAIT}s",
            "maxBackoff": f"{LONGEST_WAIT}s",
            "backoffMultiplier": WAIT_GROWTH,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        methods = {"name": [{"service": service} for service in _SERVICES], "retryPolicy": policy}
        service_config["methodConfig"] = [methods]
    setting = ("grpc.service_config", json.dumps(service_config))
    options = (*UNLIMITED_MESSAGES, *_RECONNECT_SOON, _RETRY_EVERY_SIZE, setting)
    if tls is None:
        return library.insecure_channel(address, options=options)
    return library.secure_channel(address, channel_credentials(tls), options=options)


def _method(stubs: tuple, call: GrpcCall):
    return next(getattr(stub, call.method) for stub in stubs if hasattr(stub, call.method))


def _translated(error: grpc.RpcError, address: str) -> Exception:
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimeoutError()
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return unreachable(address, error.details())
    return ServingError(error.code(), error.details())
