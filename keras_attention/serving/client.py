"""A client for PredictionService, for the embedded server and TensorFlow Serving alike; it needs no TensorFlow."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import ArrayLike

from keras_attention.serving.errors import ServingError
from keras_attention.serving.protocol import (
    UNLIMITED_MESSAGES,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelServiceStub,
    ModelSpec,
    ModelVersionStatus,
    PredictionServiceStub,
    PredictRequest,
    SignatureDef,
    SignatureDefMap,
)
from keras_attention.serving.tensor_codec import decode, write_packed

# A server that starts is reached soon after; gRPC's own waits between attempts grow to two minutes.
_RECONNECT_SOON = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000))
_POLL_SECONDS = 0.1

# What a server, or the lack of one, answers before the model is in service.
_NOT_READY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True)
class ModelVersion:
    """Where one version of a model stands.

    Attributes:
        version: its number.
        state: START, LOADING, AVAILABLE, UNLOADING or END.
        error: why it could not be loaded; empty if nothing is wrong.
    """

    version: int
    state: str
    error: str


class Client:
    """Asks a server for predictions. It may be shared by threads; close it, or use it in a `with` block.

    Strings are UTF-8 in both directions. Bytes that are not UTF-8 come back as surrogate escapes, so that nothing is
    lost (``text.encode("utf-8", "surrogateescape")`` gives the bytes) and nothing raises. An output whose name ends in
    ``_bytes`` comes back as bytes, as it does in TensorFlow Serving's REST.

    Args:
        address: host and port, such as `127.0.0.1:8500`.
        timeout: seconds that one call may take.

    Example:
        >>> with Client("127.0.0.1:8500") as client:
        ...     client.predict("chatbot", {"text": ["how do I open an account?"], "k": np.array([1], np.int32)})
        {'answer': array(['Choose ...'], dtype=object), 'score': array([0.93], dtype=float32)}
    """

    def __init__(self, address: str, timeout: float = 30.0):
        self.address = address
        self.timeout = timeout
        self._channel = grpc.insecure_channel(address, options=(*UNLIMITED_MESSAGES, *_RECONNECT_SOON))
        self._predictions = PredictionServiceStub(self._channel)
        self._models = ModelServiceStub(self._channel)

    def predict(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        signature: str = "serving_default",
        version: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs one signature of a model.

        Args:
            model: the model's name.
            inputs: a value for each input by name, [B, ...]: lists of str, bytes or numbers, or arrays. Python's
                numbers are taken as TensorFlow takes them, as int32 and float32; arrays keep their dtype.
            signature: the signature's name.
            version: the version to ask; None for the newest.

        Returns:
            The outputs by name: arrays of numbers, or object arrays of str.

        Raises:
            ServingError: with the server's status and message, or UNAVAILABLE if none can be reached, or
                DEADLINE_EXCEEDED if the answer takes longer than `timeout`.
            TypeError: if a value is nothing that a tensor can hold.
            ValueError: if a value is an empty list, which says nothing about its type.
        """
        request = PredictRequest(model_spec=_spec(model, version))
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            write_packed(_as_array(name, value), request.inputs[name])
        response = self._call(self._predictions.Predict, request)
        outputs = {name: decode(tensor) for name, tensor in response.outputs.items()}
        return {
            name: _as_text(array) if array.dtype == object and not name.endswith("_bytes") else array
            for name, array in outputs.items()
        }

    def status(self, model: str) -> list[ModelVersion]:
        """Asks where the versions of a model stand.

        Args:
            model: the model's name.

        Returns:
            The versions that the server knows, newest first.

        Raises:
            ServingError: NOT_FOUND if it knows none, or as for `predict`.
        """
        return self._status(model, self.timeout)

    def metadata(self, model: str, version: int | None = None) -> dict[str, SignatureDef]:
        """Asks what the signatures of a model take and return.

        Args:
            model: the model's name.
            version: the version to ask; None for the newest.

        Returns:
            The signatures by name.

        Raises:
            ServingError: as for `predict`.
        """
        request = GetModelMetadataRequest(model_spec=_spec(model, version), metadata_field=["signature_def"])
        response = self._call(self._predictions.GetModelMetadata, request)
        signatures = SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return dict(signatures.signature_def)

    def wait_until_ready(self, model: str, timeout: float = 60.0) -> None:
        """Waits until a version of a model is in service.

        Args:
            model: the model's name.
            timeout: seconds to wait at most.

        Raises:
            ServingError: DEADLINE_EXCEEDED, with what stood in the way at last; another one if the server refuses to
                answer at all.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                versions = self._status(model, min(self.timeout, max(deadline - time.monotonic(), _POLL_SECONDS)))
                if any(version.state == "AVAILABLE" for version in versions):
                    return
                reason = ", ".join(f"version {v.version} is {v.state} {v.error}".strip() for v in versions)
            except ServingError as error:
                if error.code not in _NOT_READY:
                    raise
                reason = str(error)
            if time.monotonic() >= deadline:
                raise ServingError(
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    f"model {model} at {self.address} is not ready after {timeout:g} s: {reason}",
                )
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _status(self, model: str, timeout: float) -> list[ModelVersion]:
        response = self._call(self._models.GetModelStatus, GetModelStatusRequest(model_spec=_spec(model)), timeout)
        return [
            ModelVersion(v.version, ModelVersionStatus.State.Name(v.state), v.status.error_message)
            for v in sorted(response.model_version_status, key=lambda v: -v.version)
        ]

    def _call(self, method: grpc.UnaryUnaryMultiCallable, request: Message, timeout: float | None = None) -> Message:
        timeout = self.timeout if timeout is None else timeout
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            code, message = error.code(), error.details()
        if code == grpc.StatusCode.UNAVAILABLE:
            message = f"no server answers at {self.address} ({message})"
        elif code == grpc.StatusCode.DEADLINE_EXCEEDED:
            message = f"no answer from {self.address} within {timeout:g} s"
        raise ServingError(code, message)


def _spec(model: str, version: int | None = None) -> ModelSpec:
    spec = ModelSpec(name=model)
    if version is not None:
        spec.version.value = version
    return spec


def _as_array(name: str, value: ArrayLike) -> np.ndarray:
    """Makes the array that is sent: strings as an object array of bytes, Python's numbers as TensorFlow takes them."""
    # As objects from the start: numpy would decode bytes that stand beside a str as ASCII.
    array = np.asarray(value, dtype=object) if _holds_text(value) else np.asarray(value)
    if isinstance(value, list | tuple) and array.size == 0:
        raise ValueError(
            f"input {name} is an empty list, which says nothing about its type: give an array with a dtype, such as "
            "np.array([], object) for strings"
        )
    if array.dtype.kind in "USO":
        return _as_bytes(name, np.asarray(value, dtype=object))
    if not isinstance(value, np.ndarray | np.generic):
        narrow = {np.dtype(np.int64): np.int32, np.dtype(np.float64): np.float32}.get(array.dtype)
        # From the value, not from the array: only so does a number that does not fit raise.
        return array if narrow is None else np.asarray(value, dtype=narrow)
    return array


def _holds_text(value: ArrayLike) -> bool:
    return isinstance(value, str | bytes) or (isinstance(value, list | tuple) and any(map(_holds_text, value)))


def _as_bytes(name: str, array: np.ndarray) -> np.ndarray:
    encoded = np.empty(array.shape, dtype=object)
    for index, item in np.ndenumerate(array):
        if not isinstance(item, str | bytes):
            raise TypeError(f"input {name} must hold numbers, str or bytes. Received: {type(item).__name__}")
        encoded[index] = item.encode("utf-8", "surrogateescape") if isinstance(item, str) else item
    return encoded


def _as_text(array: np.ndarray) -> np.ndarray:
    text = np.empty(array.shape, dtype=object)
    for index, item in np.ndenumerate(array):
        text[index] = item.decode("utf-8", "surrogateescape")
    return text
