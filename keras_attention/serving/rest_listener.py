"""The HTTP server under the REST API, on the event loop of the gRPC server."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from keras_attention.serving.config_messages import MonitoringConfig
from keras_attention.serving.errors import StartupError
from keras_attention.serving.grpc_listener import join_address
from keras_attention.serving.metrics import DEFAULT_PATH
from keras_attention.serving.text_files import read_text_message

_BACKLOG = 2048

# Longer than clients keep their idle connections: a request must not meet a connection that is just being closed.
_KEEP_ALIVE_SECONDS = 75


def read_metrics_path(path: Path | None) -> str | None:
    """Reads from a monitoring config file where the page with the metrics is.

    Args:
        path: the file, a MonitoringConfig in text format; None for no file.

    Returns:
        The page's path; None if it is not enabled.

    Raises:
        ServingError: if the file cannot be read or is no MonitoringConfig.
    """
    if path is None:
        return None
    config = read_text_message(path, MonitoringConfig()).prometheus_config
    return (config.path or DEFAULT_PATH) if config.enable else None


class HttpServer:
    """Serves an ASGI application over HTTP.

    Args:
        application: the application.
        listener: a bound socket.
        drain_seconds: how long requests in flight may take to finish when it stops.

    Example:
        >>> http_server = HttpServer(RestApi(models), bind("127.0.0.1", 8501), drain_seconds=30)
        >>> http_server.start()
        >>> await http_server.stop()
    """

    def __init__(self, application, listener: socket.socket, drain_seconds: float):
        self._listener = listener
        self._server = _Uvicorn(
            uvicorn.Config(
                application,
                loop="none",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=int(drain_seconds),
            )
        )
        self._serving: asyncio.Task | None = None

    def start(self) -> None:
        """Begins to accept connections.

        Raises:
            StartupError: if another server has begun to listen on the port since it was bound.
        """
        try:
            self._listener.listen(_BACKLOG)
        except OSError as error:
            host, port, *_ = self._listener.getsockname()
            raise StartupError(f"cannot listen on {join_address(host, port)}: {error.strerror}") from None
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))

    async def stop(self) -> None:
        """Answers the requests in flight and stops."""
        self._server.should_exit = True
        await self._serving


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The signals are the whole server's, which drains gRPC too.
        yield
