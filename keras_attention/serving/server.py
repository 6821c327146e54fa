"""The embedded server: a gRPC server that speaks TensorFlow Serving's protocol, for one machine."""

import asyncio
import logging
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from keras_attention.serving.config import ServerConfig
from keras_attention.serving.protocol import UNLIMITED_MESSAGES
from keras_attention.serving.quiet_tensorflow import import_tensorflow_quietly

if TYPE_CHECKING:
    from keras_attention.serving.served_model import ServedModel

_log = logging.getLogger(__name__)

# How long requests in flight may take to finish after SIGTERM or SIGINT.
_DRAIN_SECONDS = 30.0

# The names under which the health service answers: the server as a whole, and the service that clients call.
_HEALTH_NAMES = ("", "tensorflow.serving.PredictionService")


class StartupError(RuntimeError):
    """The server cannot start as configured; the message is one line for the person who started it."""


def serve(config: ServerConfig) -> None:
    """Serves a model until SIGTERM or SIGINT, then answers the requests in flight and returns.

    When the first version is loaded, one line goes to stdout and the health service says SERVING:
    ``Serving chatbot version 1 at 127.0.0.1:8500 (gRPC)``.

    Args:
        config: what to serve and where.

    Raises:
        StartupError: if the base path does not exist or the port cannot be had.

    Example:
        >>> serve(ServerConfig(model_base_path=Path("saved_models/chatbot"), model_name="chatbot"))
        Serving chatbot version 1 at 127.0.0.1:8500 (gRPC)
    """
    if not config.model_base_path.is_dir():
        raise StartupError(f"the base path {config.model_base_path} does not exist or is no folder")
    _require_free_port(config.host, config.port)
    asyncio.run(_serve(config))


async def _serve(config: ServerConfig) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)

    # Here, because they import TensorFlow, which takes seconds: a wrong path or a taken port is told at once.
    import_tensorflow_quietly()
    from keras_attention.serving.servable import Servable, SessionThreads
    from keras_attention.serving.served_model import ServedModel
    from keras_attention.serving.services import add_services

    threads = SessionThreads(config.tensorflow_intra_op_parallelism, config.tensorflow_inter_op_parallelism)
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="run") as executor:
        model = ServedModel(
            config.model_name,
            config.model_base_path,
            load=partial(Servable, threads=threads),
            executor=executor,
            max_batch_size=config.max_batch_size,
        )
        health_service = health.aio.HealthServicer()
        await _set_health(health_service, health_pb2.HealthCheckResponse.NOT_SERVING)

        # SO_REUSEPORT, gRPC's default, would let two servers share a port and each answer some of the requests.
        server = grpc.aio.server(options=(*UNLIMITED_MESSAGES, ("grpc.so_reuseport", 0)))
        add_services(server, {model.name: model})
        health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
        try:
            port = server.add_insecure_port(_join(config.host, config.port))
        except RuntimeError as error:
            raise StartupError(f"cannot listen on {_join(config.host, config.port)}: {error}") from None
        await server.start()
        _log.info("listening at %s", _join(config.host, port))

        watching = asyncio.create_task(model.watch(config.file_system_poll_wait_seconds))
        announcing = asyncio.create_task(_announce(model, _join(config.host, port), health_service))
        await stopping.wait()
        _log.info("stopping: answering the requests in flight")
        watching.cancel()
        announcing.cancel()
        await health_service.enter_graceful_shutdown()
        await server.stop(_DRAIN_SECONDS)
        await model.close()


async def _announce(model: "ServedModel", address: str, health_service: health.aio.HealthServicer) -> None:
    await model.available.wait()
    await _set_health(health_service, health_pb2.HealthCheckResponse.SERVING)
    print(f"Serving {model.name} version {model.find().version} at {address} (gRPC)", flush=True)


async def _set_health(health_service: health.aio.HealthServicer, status: int) -> None:
    for name in _HEALTH_NAMES:
        await health_service.set(name, status)


def _require_free_port(host: str, port: int) -> None:
    """Binds the port as gRPC does not: without SO_REUSEPORT, so that another server's port counts as taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            probe.bind(address)
    except OSError as error:
        raise StartupError(f"cannot listen on {_join(host, port)}: {error.strerror}") from None


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
