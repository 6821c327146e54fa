"""The REST API of TensorFlow Serving as an ASGI application: paths, status codes, errors, timeout, metrics page."""

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import unquote

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from keras_attention.serving import handlers
from keras_attention.serving.errors import ServingError, invalid_argument, not_found
from keras_attention.serving.metrics import CONTENT_TYPE, render
from keras_attention.serving.model_manager import ModelManager
from keras_attention.serving.protocol import (
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelSpec,
    RegressionRequest,
    SignatureDefMap,
)
from keras_attention.serving.rest_examples import fill_request, write_classifications, write_regressions
from keras_attention.serving.rest_json import parse_document
from keras_attention.serving.rest_output import to_json
from keras_attention.serving.rest_predict import predict_run, write_outputs, write_predictions

_log = logging.getLogger(__name__)

# As TensorFlow Serving's, which match without regard to case and decode the name and the label afterwards. What is
# under /v1/ and matches neither is a malformed request, 400; anything else is not found, 404.
_MODEL = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_ASK = re.compile(rf"/v1/models/(?P<name>[^/:]+){_MODEL}:(?P<method>classify|regress|predict)", re.IGNORECASE)
_LOOK = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_MODEL}(?:/(?P<method>metadata))?", re.IGNORECASE)
_LARGEST_VERSION = 2**63 - 1

_HTTP_CODES = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


@dataclass(frozen=True)
class _Asked:
    """What a request's path asks for; without a method, for the model's status."""

    spec: ModelSpec
    method: str


class RestApi:
    """An ASGI application that answers for a set of models.

    Args:
        models: the models in service.
        timeout_seconds: how long an answer may take; what takes longer is given up and answered with 504. 0 for as long
            as it takes.
        cors: whether browsers may ask from pages of other servers.
        metrics_path: where the page with the metrics is; None for no such page.

    Example:
        With a model `toy` in service, that doubles::

            $ curl -d '{"instances": [[1, 2.5]]}' http://127.0.0.1:8501/v1/models/toy:predict
            {"predictions":[[2.0,5.0]]}
    """

    def __init__(
        self, models: ModelManager, timeout_seconds: float = 30.0, cors: bool = False, metrics_path: str | None = None
    ):
        self._models = models
        self._timeout = timeout_seconds if timeout_seconds > 0 else None
        self._headers = _CORS_HEADERS if cors else {}
        self._metrics_path = metrics_path

    async def __call__(self, scope, receive, send) -> None:
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        response = await self._respond(request.method, scope["raw_path"].decode("latin-1"), body, receive)
        if response is not None:
            await response(scope, receive, send)

    async def _respond(self, http_method: str, path: str, body: bytes, receive: Callable) -> Response | None:
        """The response, or None if the client has gone before it was ready."""
        if path == self._metrics_path:
            return Response(render([await self._models.overall_metrics()]), media_type=CONTENT_TYPE)
        if http_method == "OPTIONS" and self._headers and path.lower().startswith("/v1/"):
            return Response(headers=self._headers)
        start, asked = time.perf_counter(), None
        code, content = grpc.StatusCode.OK, b""
        try:
            asked = _read_path(http_method, path)
            content = await self._within_limits(self._answer(asked, body), receive)
        except ServingError as error:
            code, content = error.code, _error(error.message)
        except Exception as error:
            _log.exception("%s %s failed", http_method, path)
            code, content = grpc.StatusCode.INTERNAL, _error(f"{http_method} {path} failed with {type(error).__name__}")
        if content is None:
            code = grpc.StatusCode.CANCELLED
        if self._models.metrics and http_method == "POST" and asked:
            name = self._models.known_name(asked.spec.name)
            seconds = time.perf_counter() - start
            self._models.metrics.record_request(name, asked.method, "REST", code.name, seconds)
        if content is None:
            return None
        return Response(content, _HTTP_CODES[code], self._headers, media_type="application/json")

    async def _within_limits(self, answer: Awaitable[bytes], receive: Callable) -> bytes | None:
        """Awaits an answer until the time is up or the client has gone; what waits in a queue then leaves it."""
        work = asyncio.ensure_future(answer)
        departure = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((work, departure), timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if departure.done():
                return None
            raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for notification")
        finally:
            work.cancel()
            departure.cancel()

    async def _answer(self, asked: _Asked, body: bytes) -> bytes:
        if asked.method == "predict":
            document = parse_document(body)
            _, outputs, _ = await handlers.infer(
                self._models, asked.spec, lambda servable: predict_run(servable, document), "Predict"
            )
            return write_predictions(outputs) if "instances" in document else write_outputs(outputs)
        if asked.method == "classify":
            request = fill_request(parse_document(body), asked.spec, ClassificationRequest())
            return write_classifications(await handlers.classify(self._models, request))
        if asked.method == "regress":
            request = fill_request(parse_document(body), asked.spec, RegressionRequest())
            return write_regressions(await handlers.regress(self._models, request))
        if not asked.spec.name:
            raise invalid_argument("Missing model name in request.")
        if asked.method == "metadata":
            request = GetModelMetadataRequest(model_spec=asked.spec, metadata_field=["signature_def"])
            response = await handlers.get_model_metadata(self._models, request)
            signatures = SignatureDefMap()
            response.metadata["signature_def"].Unpack(signatures)
            metadata = {"signature_def": _as_dict(signatures)}
            return _write({"model_spec": _as_dict(response.model_spec), "metadata": metadata})
        request = GetModelStatusRequest(model_spec=asked.spec)
        return _write(_as_dict(await handlers.get_model_status(self._models, request)))


async def _until_gone(receive: Callable) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _read_path(http_method: str, path: str) -> _Asked:
    if not path.lower().startswith("/v1/"):
        raise not_found(f"Not found: {http_method} {path}")
    pattern = {"POST": _ASK, "GET": _LOOK}.get(http_method)
    match = pattern and pattern.fullmatch(path)
    if not match:
        raise invalid_argument(f"Malformed request: {http_method} {path}")
    spec = ModelSpec(name=unquote(match["name"] or "", errors="replace"))
    if match["version"]:
        digits = match["version"].lstrip("0") or "0"
        # Counted first: Python itself refuses to convert thousands of digits.
        if len(digits) > len(str(_LARGEST_VERSION)) or int(digits) > _LARGEST_VERSION:
            raise invalid_argument(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(digits)
    elif match["label"]:
        spec.version_label = unquote(match["label"], errors="replace")
    return _Asked(spec, (match["method"] or "").lower())


def _as_dict(message: Message) -> dict:
    # With the fields that have their zero value too, as TensorFlow Serving prints them.
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _write(value: dict) -> bytes:
    return json.dumps(value, indent=1).encode()


def _error(message: str) -> bytes:
    return to_json({"error": message.encode("utf-8", "replace").decode()})
