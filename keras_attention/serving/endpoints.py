"""Where one process takes requests: gRPC with health and reflection, and REST."""

import asyncio
import logging
import socket
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

# The stubs know the messages; the services' own descriptions, for reflection, are in these.
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2  # noqa: F401

from keras_attention.serving.grpc_listener import join_address, listen, make_credentials
from keras_attention.serving.model_manager import ModelManager
from keras_attention.serving.protocol import UNLIMITED_MESSAGES
from keras_attention.serving.rest import RestApi
from keras_attention.serving.rest_listener import HttpServer
from keras_attention.serving.served_model import ServedModel
from keras_attention.serving.services import MODEL_SERVICE, PREDICTION_SERVICE, add_services
from keras_attention.serving.setup import DRAIN_SECONDS, Setup

_log = logging.getLogger(__name__)

# The names under which the health service answers: the server as a whole, and the service that clients call.
_HEALTH_NAMES = ("", PREDICTION_SERVICE)

# Clients keep a connection for as long as it lasts, and so would stay with the workers that were there when they came.
# One of this age takes no more requests; the client makes another, which may go to any worker. Shutting a server down
# and starting another in its place, only when a worker has come, was tried: requests fail meanwhile.
_SHARED_CONNECTION_AGE_MS = 5000


class Endpoints:
    """The gRPC server and the HTTP server of one process. They belong to one event loop.

    Args:
        setup: the flags and what their files say.
        models: what answers.
        rest_listener: the bound socket of the REST API; None for no REST API.
    """

    def __init__(self, setup: Setup, models: ModelManager, rest_listener: socket.socket | None):
        self._setup = setup
        self._models = models
        self._rest_listener = rest_listener
        self._health = health.aio.HealthServicer()
        self._http_server: HttpServer | None = None
        self._grpc_servers: list[grpc.aio.Server] = []

    async def start(self, port: int, shared_port: bool = False, unix_socket: bool = True) -> int:
        """Begins to take requests. The health service says NOT_SERVING.

        Args:
            port: the gRPC port; 0 for a free one.
            shared_port: whether other processes listen on it too.
            unix_socket: whether to listen on the UNIX socket that the flags name.

        Returns:
            The gRPC port.

        Raises:
            StartupError: if an address cannot be had.
        """
        config = self._setup.config
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        port = await self._start_grpc(join_address(config.host, port), shared_port)
        _log.info("listening at %s", join_address(config.host, port))
        if config.grpc_socket_path is not None and unix_socket:
            await self._start_grpc(f"unix:{config.grpc_socket_path}")
            _log.info("listening at unix:%s", config.grpc_socket_path)
        if self._rest_listener:
            timeout = config.rest_api_timeout_in_ms / 1000
            api = RestApi(self._models, timeout, config.rest_api_enable_cors_support, self._setup.metrics_path)
            self._http_server = HttpServer(api, self._rest_listener, DRAIN_SECONDS)
            self._http_server.start()
            _log.info("REST API at %s", join_address(config.host, config.rest_api_port))
        return port

    async def announce(self, tell: Callable[[str, int], None]) -> None:
        """Waits for the models; when each has a version in service, the health service says SERVING.

        Args:
            tell: called for each model that has come into service, with its name and version.
        """

        async def announce_one(name: str, model: ServedModel) -> None:
            await model.available.wait()
            if loaded := model.find():
                tell(name, loaded.version)

        await asyncio.gather(*(announce_one(name, model) for name, model in self._models.models.items()))
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """Answers the requests in flight and stops; does nothing if it has not started."""
        await self._health.enter_graceful_shutdown()
        stopping = [server.stop(DRAIN_SECONDS) for server in self._grpc_servers]
        if self._http_server:
            stopping.append(self._http_server.stop())
        await asyncio.gather(*stopping)

    async def _start_grpc(self, address: str, shared_port: bool = False) -> int:
        # SO_REUSEPORT, gRPC's default, lets two servers share a port and each answer some of the requests.
        arguments = {**dict(UNLIMITED_MESSAGES), "grpc.so_reuseport": 0, **dict(self._setup.config.channel_arguments)}
        if shared_port:
            arguments["grpc.so_reuseport"] = 1
            arguments.setdefault("grpc.max_connection_age_ms", _SHARED_CONNECTION_AGE_MS)
        server = grpc.aio.server(options=tuple(arguments.items()))
        add_services(server, self._models)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (PREDICTION_SERVICE, MODEL_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        port = listen(server, address, make_credentials(self._setup.ssl_config))
        await server.start()
        self._grpc_servers.append(server)
        return port

    async def _set_health(self, status: int) -> None:
        for name in _HEALTH_NAMES:
            await self._health.set(name, status)
