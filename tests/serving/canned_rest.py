"""An HTTP server that answers what a test has written down, in TensorFlow Serving's JSON as its pages document it."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext

METADATA = {
    "model_spec": {"name": "m", "signature_name": "", "version": "3"},
    "metadata": {
        "signature_def": {
            "signature_def": {
                "serving_default": {
                    "inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [], "unknown_rank": False}}},
                    "outputs": {
                        "y": {
                            "dtype": "DT_FLOAT",
                            "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
                            "name": "y:0",
                        }
                    },
                    "method_name": "tensorflow/serving/predict",
                }
            }
        }
    },
}


def metadata(**outputs: tuple[str, list[int]]) -> bytes:
    """Metadata of one signature, whose outputs have these data types and shapes."""
    content = json.loads(json.dumps(METADATA))
    signature = content["metadata"]["signature_def"]["signature_def"]["serving_default"]
    signature["outputs"] = {
        name: {"dtype": dtype, "tensor_shape": {"dim": [{"size": str(size)} for size in shape]}}
        for name, (dtype, shape) in outputs.items()
    }
    return json.dumps(content).encode()


class CannedServer(ThreadingHTTPServer):
    """Answers by path; the last answer of a path is repeated. What it was asked is in `requests`.

    Args:
        answers: by path a list of status, body and, if it is to take time, seconds.
        listen: whether to answer from the start, or to refuse connections until `listen` is called.
    """

    daemon_threads = True

    def __init__(self, answers: dict[str, list[tuple]], listen: bool = True):
        super().__init__(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self.server_bind()
        self.answers = answers
        self.requests: list[tuple[str, dict | None]] = []
        self.address = f"127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        if listen:
            self.listen()

    def listen(self) -> None:
        self.server_activate()
        self._thread.start()

    def handle_error(self, request, client_address):
        """Says nothing about clients that went away or were refused: they are what is tested."""

    def close(self) -> None:
        if self._thread.ident is not None:
            self.shutdown()
            self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.path, json.loads(body) if body else None))
        answers = self.server.answers.get(self.path, [(404, b'{ "error": "nothing is here" }')])
        status, content, *seconds = answers.pop(0) if len(answers) > 1 else answers[0]
        time.sleep(*seconds or [0])
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = _answer

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def canned_server(
    answers: dict[str, list[tuple]], listen: bool = True, tls: SSLContext | None = None
) -> Iterator[CannedServer]:
    """A `CannedServer` for the time of a `with` block."""
    server = CannedServer(answers, listen)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    try:
        yield server
    finally:
        server.close()
