"""The client's side of TensorFlow Serving's REST: what is asked, and the HTTP connections that it is asked through.

JSON knows neither dtypes nor, where a model has one output, its name: both are taken from the model's metadata.
"""

import asyncio
import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import grpc
import httpx2
import numpy as np
from google.protobuf import json_format
from numpy.typing import ArrayLike

from keras_attention.serving.client_steps import Conversation, retried, unreachable
from keras_attention.serving.client_tls import Tls, ssl_context
from keras_attention.serving.client_values import (
    ModelVersion,
    ScoredClass,
    as_arrays,
    as_features,
    as_outputs,
    as_versions,
    describe,
    tensor_dtype,
)
from keras_attention.serving.errors import ServingError
from keras_attention.serving.protocol import GetModelStatusResponse, ModelServerConfig, SignatureDef, SignatureDefMap

T = TypeVar("T")

# For how long the metadata of "the newest version", or of a label, is taken to be what it was.
_METADATA_SECONDS = 5.0

# TensorFlow Serving answers several codes with the same status; this is the commonest of them.
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ABORTED,
    412: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_LONGEST_EXCERPT = 200


@dataclass(frozen=True)
class HttpCall:
    """One call.

    Attributes:
        path: where, under the address.
        body: what is posted, JSON; None for GET.
    """

    path: str
    body: bytes | None = None


class RestConversations:
    """What is asked over REST; the methods are those of `Client`, and give conversations.

    Args:
        address: the server's, for messages.
        retries: how often a call is repeated while the server is UNAVAILABLE.
    """

    def __init__(self, address: str, retries: int):
        self._address = address
        self._retries = retries
        self._metadata: dict[tuple[str, int | str | None], tuple[float, dict[str, SignatureDef]]] = {}

    def predict(
        self, model: str, inputs: Mapping[str, ArrayLike], signature: str, version: int | str | None
    ) -> Conversation[dict[str, np.ndarray]]:
        """As `Client.predict`."""
        values = {name: _to_json(name, array) for name, array in as_arrays(inputs).items()}
        body = {"signature_name": signature, "inputs": values}
        answer = yield from self._ask(f"{_path(model, version)}:predict", body, lambda answer: answer["outputs"])
        asked_at, signatures = self._metadata.get((model, version), (0.0, {}))
        fresh = isinstance(version, int) or time.monotonic() < asked_at + _METADATA_SECONDS
        if fresh and signature in signatures:
            try:
                return _read_outputs(answer, signatures[signature])
            except (LookupError, TypeError, ValueError):
                pass  # the answer is of a version that came since
        signatures = yield from self._signatures(model, version)
        return self._read(answer, lambda answer: _read_outputs(answer, signatures[signature]))

    def classify(
        self, model: str, examples: Sequence[Mapping[str, ArrayLike]], signature: str, version: int | str | None
    ) -> Conversation[list[list[ScoredClass]]]:
        """As `Client.classify`."""

        def read(answer):
            rows = answer["results"]
            return [[ScoredClass(label, float(np.float32(score))) for label, score in row] for row in rows]

        body = {"signature_name": signature, "examples": _examples(examples)}
        return (yield from self._ask(f"{_path(model, version)}:classify", body, read))

    def regress(
        self, model: str, examples: Sequence[Mapping[str, ArrayLike]], signature: str, version: int | str | None
    ) -> Conversation[np.ndarray]:
        """As `Client.regress`."""
        body = {"signature_name": signature, "examples": _examples(examples)}
        answer = yield from self._ask(f"{_path(model, version)}:regress", body, lambda answer: answer["results"])
        return self._read(answer, lambda answer: np.array(answer, np.float32))

    def status(self, model: str) -> Conversation[list[ModelVersion]]:
        """As `Client.status`."""

        def read(answer):
            return as_versions(json_format.ParseDict(answer, GetModelStatusResponse(), ignore_unknown_fields=True))

        return (yield from self._ask(_path(model, None), None, read))

    def metadata(self, model: str, version: int | str | None) -> Conversation[dict[str, dict[str, Any]]]:
        """As `Client.metadata`."""
        return describe((yield from self._signatures(model, version)))

    def reload_config(self, config: ModelServerConfig) -> Conversation[None]:
        """As `Client.reload_config`."""
        raise ServingError(
            grpc.StatusCode.UNIMPLEMENTED, "REST has no method that reloads the configuration: ask the gRPC port"
        )
        yield  # which makes it a conversation

    def _signatures(self, model: str, version: int | str | None) -> Conversation[dict[str, SignatureDef]]:
        def read(answer):
            fields = {k: v for k, v in answer["metadata"]["signature_def"].items() if k != "@type"}
            return dict(json_format.ParseDict(fields, SignatureDefMap(), ignore_unknown_fields=True).signature_def)

        signatures = yield from self._ask(f"{_path(model, version)}/metadata", None, read)
        self._metadata[model, version] = time.monotonic(), signatures
        return signatures

    def _ask(self, path: str, body: Any, read: Callable[[Any], T]) -> Conversation[T]:
        # ASCII alone costs up to six bytes for a character, and some servers the time to undo it.
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        answer = yield from retried(HttpCall(path, content), self._retries)
        return self._read(answer, read)

    def _read(self, answer: Any, read: Callable[[Any], T]) -> T:
        try:
            return read(answer)
        except (LookupError, TypeError, ValueError, json_format.ParseError) as error:
            raise _no_tensorflow_serving(self._address, f"{type(error).__name__}: {error}") from None


def _path(model: str, version: int | str | None) -> str:
    if version is None:
        return f"/v1/models/{quote(model, safe='')}"
    kind = "labels" if isinstance(version, str) else "versions"
    return f"/v1/models/{quote(model, safe='')}/{kind}/{quote(str(version), safe='')}"


def _to_json(name: str, array: np.ndarray) -> Any:
    if array.dtype == object:
        values = np.empty(array.shape, object)
        for index, item in np.ndenumerate(array):
            values[index] = _text_to_json(item)
        return values.tolist()
    if array.dtype.kind == "c":
        raise TypeError(f"input {name} has complex numbers, which JSON has not: ask the gRPC port")
    # The small floats are no types of Python's.
    return (array if array.dtype.kind in "biuf" else array.astype(np.float32)).tolist()


def _text_to_json(item: bytes) -> str | dict[str, str]:
    try:
        return item.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(item).decode()}


def _examples(examples: Sequence[Mapping[str, ArrayLike]]) -> list[dict[str, list]]:
    return [
        {name: [_text_to_json(v) if isinstance(v, bytes) else v for v in values] for name, values in features.items()}
        for features in as_features(examples)
    ]


def _read_outputs(values: Any, signature: SignatureDef) -> dict[str, np.ndarray]:
    if len(signature.outputs) == 1:
        values = {next(iter(signature.outputs)): values}
    if values.keys() != signature.outputs.keys():
        raise ValueError(f"outputs are {sorted(values)} where the metadata has {sorted(signature.outputs)}")
    return as_outputs({name: _read_tensor(values[name], info) for name, info in signature.outputs.items()})


def _read_tensor(values: Any, info) -> np.ndarray:
    array = np.array(values, tensor_dtype(info.dtype))
    dims = [dim.size for dim in info.tensor_shape.dim]
    if array.size == 0 and array.ndim < len(dims):
        array = array.reshape(*array.shape, *(max(size, 0) for size in dims[array.ndim :]))
    if array.dtype != object:
        return array
    content = np.empty(array.shape, object)
    for index, item in np.ndenumerate(array):
        is_text = isinstance(item, str)
        content[index] = item.encode("utf-8", "surrogateescape") if is_text else base64.b64decode(item["b64"])
    return content


class RestTransport:
    """Sends calls over HTTP and reads the JSON that comes back.

    Args:
        address: the server's URL; it may have a path.
        tls: what https needs beyond the authorities that are trusted by default.
    """

    def __init__(self, address: str, tls: Tls | None):
        self.address = address
        self._http = httpx2.Client(**_settings(tls))

    def send(self, step: HttpCall, timeout: float) -> Any:
        """Makes a call.

        Args:
            step: the call.
            timeout: seconds for it.

        Returns:
            The JSON that came back.

        Raises:
            ServingError: with the status and the message of what went wrong.
            TimeoutError: if there was no answer in time.
        """
        deadline = time.monotonic() + timeout
        parts = []
        with (
            _translated_errors(self.address),
            self._http.stream(**_request(self.address, step), timeout=timeout) as response,
        ):
            # In parts: HTTP's own timeouts are for each of them, and not for all.
            for part in response.iter_bytes():
                parts.append(part)
                if time.monotonic() > deadline:
                    raise TimeoutError
        return _read_response(self.address, response, b"".join(parts))

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()


class AsyncRestTransport:
    """As `RestTransport`, with coroutines."""

    def __init__(self, address: str, tls: Tls | None):
        self.address = address
        self._http = httpx2.AsyncClient(**_settings(tls))

    async def send(self, step: HttpCall, timeout: float) -> Any:
        """As `RestTransport.send`."""
        with _translated_errors(self.address):
            async with asyncio.timeout(timeout):
                response = await self._http.request(**_request(self.address, step), timeout=None)
        return _read_response(self.address, response, response.content)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()


def _settings(tls: Tls | None) -> dict[str, Any]:
    return {
        "verify": True if tls is None else ssl_context(tls),
        # However many threads or tasks share a client, none waits for another's connection.
        "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=100),
    }


def _request(address: str, call: HttpCall) -> dict[str, Any]:
    return {
        "method": "GET" if call.body is None else "POST",
        "url": address.rstrip("/") + call.path,
        "content": call.body,
        "headers": {} if call.body is None else {"Content-Type": "application/json"},
    }


@contextmanager
def _translated_errors(address: str):
    try:
        yield
    except httpx2.TimeoutException:
        raise TimeoutError from None
    except httpx2.HTTPError as error:
        raise unreachable(address, str(error) or type(error).__name__) from None


def _read_response(address: str, response: httpx2.Response, content: bytes) -> Any:
    # Text that is no UTF-8 stands in TensorFlow Serving's JSON as it is.
    text = content.decode("utf-8", "surrogateescape")
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if response.status_code == httpx2.codes.OK:
        if not isinstance(answer, dict):
            raise _no_tensorflow_serving(address, f"no JSON object but {_excerpt(text)}")
        return answer
    message = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(message, str):
        message = f"HTTP status {response.status_code} from {address}: {_excerpt(text)}"
    raise ServingError(_CODES.get(response.status_code, grpc.StatusCode.UNKNOWN), message)


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_EXCERPT else text[:_LONGEST_EXCERPT] + "...")


def _no_tensorflow_serving(address: str, reason: str) -> ServingError:
    return ServingError(
        grpc.StatusCode.INTERNAL, f"{address} does not answer as TensorFlow Serving's REST does: {reason}"
    )
