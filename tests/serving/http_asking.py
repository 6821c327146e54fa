"""How the tests ask a server over HTTP, with nothing but the standard library."""

import http.client
import json
import socket
from dataclasses import dataclass
from typing import Any

TIMEOUT = 30.0


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    code: int
    body: bytes
    headers: http.client.HTTPMessage

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Rest:
    """A REST API at an address."""

    def __init__(self, address: str):
        self.address = address

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Sends a request; a body that is not bytes is sent as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read(), response.headers)
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def post(self, path: str, body: Any) -> Answer:
        return self.ask("POST", path, body)

    def answer(self, path: str, body: Any) -> Any:
        """The JSON of an answer that must be good."""
        answer = self.post(path, body)
        assert answer.code == 200, answer.body
        return answer.json
