"""Requests that no client should send, made at random: for gRPC and REST, and on the wire below them.

All of them are about the models of the server tests: `toy`, `examples` and `types`. What is random comes from the
`random.Random` that is given, so a request can be made again.
"""

import dataclasses
import json

from benchmarks.serving_fuzz_protos import METHODS, PREDICTION, a_message, a_predict_request, damaged, random_bytes

MODELS = ("toy", "examples", "types", "nobody", "")
_JSON_NUMBERS = (0, -1, 1.5, 1e308, 2**31, 2**53 + 1, 2**64, -(2**63), 10**30, float("nan"), float("inf"))
_KEYS = ("instances", "inputs", "examples", "context", "signature_name", "b64", "x", "text", "ids", "factor", "y", "")
_GOOD_DOCUMENTS = {
    "toy:predict": (
        {"instances": ["Straße", {"b64": "/w=="}]},
        {"signature_name": "scale", "inputs": {"x": [[1, 2.5]], "factor": [3]}},
        {"signature_name": "scale", "instances": [{"x": [1, 2]}, {"x": [3, 4]}]},
        {"signature_name": "widths", "instances": [[1, 2, 3]]},
        {"signature_name": "fixed", "inputs": [[1, 2], [3, 4]]},
        {"signature_name": "picky", "instances": ["bad", "good"]},
        {"signature_name": "distinct", "instances": ["a", "a"]},
    ),
    "examples:classify": ({"examples": [{"x": 1.5}, {"x": [2.0], "shift": 0.5}], "context": {"shift": 1.0}},),
    "examples:regress": ({"signature_name": "regress", "examples": [{"x": 1.5}]},),
    "types:predict": (
        {"signature_name": "echo", "inputs": [{"b64": "aGVsbG8="}]},
        {"signature_name": "uint8", "inputs": [[1, 255], [0, 7]]},
        {"signature_name": "bool", "inputs": [True]},
        {"signature_name": "float16", "inputs": [1.5]},
        {"signature_name": "divide", "inputs": {"x": [1.0], "y": [0.0]}},
        {"signature_name": "scalar", "inputs": 1.5},
        {"signature_name": "uneven", "instances": [1.5, 2, 3]},
    ),
}


@dataclasses.dataclass(frozen=True)
class GrpcRequest:
    """A call of a method with bytes that may or may not be its message."""

    method: str
    content: bytes
    timeout: float | None = None  # seconds; only of a call that is to be given up

    def __str__(self):
        return f"gRPC {self.method} {_cut(self.content)}" + (f" timeout {self.timeout}" if self.timeout else "")


@dataclasses.dataclass(frozen=True)
class HttpRequest:
    """What is written to an HTTP connection, in pieces, and how the connection ends.

    Attributes:
        pieces: bytes, written one after the other.
        pause: seconds between two pieces.
        end: "answer" waits for an answer, "close" closes the connection at once, "reset" does so without a farewell.
        port: whose port it is written to: "rest" or "grpc".
    """

    pieces: tuple[bytes, ...]
    pause: float = 0.0
    end: str = "answer"
    port: str = "rest"

    def __str__(self):
        return f"{self.port} {self.end} {_cut(b''.join(self.pieces))} in {len(self.pieces)} pieces"


def http_request(method, path, body=b""):
    """One HTTP/1.1 request on a connection that is closed after it."""
    head = f"{method} {path} HTTP/1.1\r\nHost: fuzz\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode("utf-8", "surrogatepass") + body


def make_request(chance):
    """A request that is wrong in some way, or by luck right.

    Args:
        chance: `random.Random`.

    Returns:
        `GrpcRequest` or `HttpRequest`.
    """
    makers = {
        _random_grpc: 10,
        _damaged_grpc: 30,
        _odd_predict: 25,
        _abandoned_grpc: 3,
        _random_json: 12,
        _damaged_json: 15,
        _random_path: 10,
        _cut_connection: 4,
        _slow_connection: 2,
    }
    return chance.choices(list(makers), list(makers.values()))[0](chance)


def _random_grpc(chance):
    method = chance.choice([*METHODS, "/tensorflow.serving.PredictionService/Nothing", "/nothing", "/"])
    return GrpcRequest(method, random_bytes(chance))


def _damaged_grpc(chance):
    method, content = a_message(chance)
    return GrpcRequest(method, damaged(chance, method, content))


def _odd_predict(chance):
    return GrpcRequest(f"{PREDICTION}/Predict", a_predict_request(chance).SerializeToString())


def _abandoned_grpc(chance):
    method, content = a_message(chance)
    return GrpcRequest(method, content, timeout=chance.choice([1e-4, 1e-3, 3e-3]))


def _post(path, body):
    return HttpRequest((http_request("POST", path, body),))


def _random_json(chance):
    document = {chance.choice(_KEYS): _json_value(chance, 0) for _ in range(chance.randint(0, 4))}
    if chance.random() < 0.5:
        document["signature_name"] = chance.choice(["scale", "widths", "echo", "uint8", "int64", "bool", "x", 7])
    content = json.dumps(document if chance.random() < 0.9 else _json_value(chance, 0)).encode()
    if chance.random() < 0.05:
        depth = chance.choice([50, 70, 1000, 100_000])
        content = b'{"instances": ' + b"[" * depth + b"]" * depth + b"}"
    return _post(f"/v1/models/{chance.choice([*_GOOD_DOCUMENTS, 'toy:classify', 'types:regress'])}", content)


def _json_value(chance, depth):
    kind = chance.random()
    if kind < 0.35 and depth < 6:
        return [
            _json_value(chance, depth + 1) for _ in range(chance.choice([0, 1, 2, 2, 2, 5, 200 if depth < 2 else 3]))
        ]
    if kind < 0.5 and depth < 6:
        return {chance.choice(_KEYS): _json_value(chance, depth + 1) for _ in range(chance.randint(0, 3))}
    if kind < 0.75:
        return chance.choice(_JSON_NUMBERS)
    if kind < 0.95:
        return chance.choice(["", "Straße", "bad", "\ud800", "\0", "x" * 5000, "//8=", "not base64!"])
    return chance.choice([None, True, False])


def _damaged_json(chance):
    target = chance.choice(list(_GOOD_DOCUMENTS))
    content = bytearray(json.dumps(chance.choice(_GOOD_DOCUMENTS[target])).encode())
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(content) + 1)
        stop = start + chance.choice([0, 1, 1, 3])
        pieces = [b"", b'"', b"[", b"]", b"{", b"}", b",", b":", b"NaN", b"-", b"1e999", b"\\u", b"\xff", b"null", b"0"]
        content[start:stop] = chance.choice(pieces)
    return _post(f"/v1/models/{target}", bytes(content))


def _random_path(chance):
    version = chance.choice(["", "/versions/1", "/versions/7", f"/versions/{'9' * chance.choice([19, 30, 5000])}"])
    label = chance.choice(["", "/labels/stable", "/labels/%ff%fe", "/labels/no%20such", "/labels/"])
    verb = chance.choice(["", "/metadata", ":predict", ":classify", ":regress", ":explain", "/", ":predict?x=1", "//"])
    path = f"/v1/models/{chance.choice([*MODELS, '%74oy', '%ff', 'Straße', 'toy%2fx'])}{version}{label}{verb}"
    if chance.random() < 0.3:
        path = "/" + "".join(chance.choice("/v1models:%2e\x7f?#é .") for _ in range(chance.randint(0, 40)))
    method = chance.choice(
        ["GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "NOTHING", "get"]
    )
    body = chance.choice([b"", b"{}", b'{"instances": ["x"]}', random_bytes(chance)])
    return HttpRequest((http_request(method, path, body),))


def _good_post(chance):
    target = chance.choice(list(_GOOD_DOCUMENTS))
    body = json.dumps(chance.choice(_GOOD_DOCUMENTS[target])).encode()
    return http_request("POST", f"/v1/models/{target}", body)


def _cut_connection(chance):
    port = chance.choice(["rest", "rest", "grpc"])
    content = _good_post(chance) if port == "rest" else b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + random_bytes(chance)
    if chance.random() < 0.2:
        content = random_bytes(chance)
    end = chance.choice(["close", "reset"])
    return HttpRequest((content[: chance.randint(0, len(content))],), end=end, port=port)


def _slow_connection(chance):
    content = _good_post(chance)
    cuts = sorted(chance.randrange(len(content)) for _ in range(10))
    pieces = [content[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    return HttpRequest(tuple(pieces), pause=chance.uniform(0.001, 0.02))


def _cut(content):
    return f"{content[:600]!r}" + (f"... ({len(content):,} bytes)" if len(content) > 600 else "")
