"""Connections of a load generator: just enough of HTTP/1.1 and of gRPC's HTTP/2 to ask and to see that an answer came.

Client and server of the benchmark share the machine. What the client costs is missing to the server, and grpcio's own
client costs more for a request than a small model: 0.3 ms, where these connections take a tenth. They say what any
client says, and are no clients for other uses: they look into no answer.
"""

import asyncio
import struct
from urllib.parse import quote

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACKNOWLEDGES = 0x1, 0x4, 0x1
_LARGEST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 2**16 - 1


class Connection(asyncio.Protocol):
    """A connection of one client, with one request at a time; `connect` makes them.

    Attributes:
        answered: called with True for a good answer and with False for any other, each time one is there.
    """

    def __init__(self, target):
        self._target = target
        self._received = bytearray()
        self.answered = None

    def connection_made(self, transport):
        self._transport = transport

    def connection_lost(self, error):
        if self.answered:
            self.answered(False)

    def close(self):
        """Closes it; no answer is told any more."""
        self.answered = None
        self._transport.close()


class HttpConnection(Connection):
    """HTTP/1.1 with JSON. The target is a path."""

    def ask(self, body):
        """Sends a request with a body of bytes."""
        head = f"POST {quote(self._target, safe='/:')} HTTP/1.1\r\nHost: benchmark\r\nContent-Type: application/json"
        self._transport.write(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def data_received(self, data):
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        start = head.index(b"content-length:") + len(b"content-length:")
        length = int(head[start:].split(b"\r\n", 1)[0])
        if len(self._received) >= end + 4 + length:
            del self._received[: end + 4 + length]
            self.answered(head.startswith(b"http/1.1 200"))


class GrpcConnection(Connection):
    """gRPC in clear. The target is a method, such as /tensorflow.serving.PredictionService/Predict."""

    def connection_made(self, transport):
        super().connection_made(transport)
        self._stream = -1
        self._asks = False
        self._answer_size = 0
        self._headers = _header_block(self._target)
        # No compression of headers with a state to be kept, and windows that no answer fills: there is nothing to do
        # for either. The server's own windows are for requests larger than these.
        settings = struct.pack(">HIHI", 1, 0, 4, _LARGEST_WINDOW)
        window = struct.pack(">I", _LARGEST_WINDOW - _FIRST_WINDOW)
        self._transport.write(_PREFACE + _frame(_SETTINGS, settings) + _frame(_WINDOW_UPDATE, window))

    def ask(self, body):
        """Sends a request, a serialized message."""
        self._stream += 2
        self._asks = True
        self._answer_size = 0
        headers = _frame(_HEADERS, self._headers, _END_HEADERS, self._stream)
        message = struct.pack(">BI", 0, len(body)) + body
        self._transport.write(headers + _frame(_DATA, message, _END_STREAM, self._stream))

    def data_received(self, data):
        self._received += data
        position = 0
        while len(self._received) >= position + 9:
            length = int.from_bytes(self._received[position : position + 3])
            kind, flags = self._received[position + 3], self._received[position + 4]
            end = position + 9 + length
            if len(self._received) < end:
                break
            self._read_frame(kind, flags, bytes(self._received[position + 9 : end]))
            position = end
        del self._received[:position]

    def _read_frame(self, kind, flags, content):
        if kind == _DATA:
            self._answer_size += len(content)
        elif kind == _PING and not flags & _ACKNOWLEDGES:
            self._transport.write(_frame(_PING, content, _ACKNOWLEDGES))
        elif kind == _SETTINGS and not flags & _ACKNOWLEDGES:
            self._transport.write(_frame(_SETTINGS, b"", _ACKNOWLEDGES))
        ended = kind in (_DATA, _HEADERS) and flags & _END_STREAM
        if self._asks and (ended or kind in (_RESET, _GO_AWAY)):
            self._asks = False
            # A status that is not OK comes alone, without a message.
            self.answered(bool(ended) and self._answer_size > 0)


async def connect(protocol, host, port, target):
    """Makes a connection.

    Args:
        protocol: "grpc" or "rest".
        host: str.
        port: int.
        target: the method or the path that is asked.

    Returns:
        A `GrpcConnection` or an `HttpConnection`.
    """
    kind = {"grpc": GrpcConnection, "rest": HttpConnection}[protocol]
    _, connection = await asyncio.get_running_loop().create_connection(lambda: kind(target), host, port)
    return connection


def _frame(kind, content, flags=0, stream=0):
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def _header_block(path):
    """The headers of a request in HPACK, each spelled out or one of the static table."""

    def literal(text):
        return bytes([len(text)]) + text.encode()

    static = bytes([0x83, 0x86])  # :method POST, :scheme http
    path = b"\x04" + literal(path)
    authority = b"\x01" + literal("benchmark")
    content_type = b"\x0f\x10" + literal("application/grpc")
    return static + path + authority + content_type + b"\x00" + literal("te") + literal("trailers")
