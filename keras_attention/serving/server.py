"""The embedded server: TensorFlow Serving's protocol over gRPC and REST, for one machine."""

import asyncio
import contextlib
import logging
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from keras_attention.serving.config import ServerConfig
from keras_attention.serving.errors import ServingError
from keras_attention.serving.grpc_listener import bind, require_free_socket
from keras_attention.serving.protocol import ModelServerConfig
from keras_attention.serving.quiet_tensorflow import import_tensorflow_quietly
from keras_attention.serving.setup import Setup, read_setup
from keras_attention.serving.supervisor import supervise

if TYPE_CHECKING:
    from keras_attention.serving.endpoints import Endpoints
    from keras_attention.serving.model_manager import ModelManager

_log = logging.getLogger(__name__)


def serve(config: ServerConfig) -> None:
    """Serves models until SIGTERM or SIGINT, then answers the requests in flight and returns.

    When the first version of a model is in service, one line goes to stdout:
    ``Serving chatbot version 1 at 127.0.0.1:8500 (gRPC), 127.0.0.1:8501 (REST)``; with several workers, when it is so
    in all of them. When that is so for every model, the health service says SERVING.

    Args:
        config: what to serve and where.

    Raises:
        StartupError: if a file of the configuration makes no sense, a base path does not exist or the port cannot be
            had; in one line.

    Example:
        >>> serve(ServerConfig(model_base_path=Path("saved_models/chatbot"), model_name="chatbot"))
        Serving chatbot version 1 at 127.0.0.1:8500 (gRPC)
    """
    setup = read_setup(config)
    if setup.metrics_path and not config.rest_api_port:
        _log.warning("%s has no effect without rest_api_port", config.monitoring_config_file)
    if config.grpc_socket_path is not None:
        require_free_socket(config.grpc_socket_path)
    if config.num_workers > 1:
        supervise(setup)
        return
    with bind(config.host, config.port):
        pass  # gRPC would take a taken port too
    with bind(config.host, config.rest_api_port) if config.rest_api_port else contextlib.nullcontext() as rest_listener:
        asyncio.run(_serve(setup, rest_listener))


async def _serve(setup: Setup, rest_listener: socket.socket | None) -> None:
    config = setup.config
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)

    # Here, because they import TensorFlow, which takes seconds: a wrong path or a taken port is told at once.
    import_tensorflow_quietly()
    from keras_attention.serving.config_watcher import watch_model_config
    from keras_attention.serving.endpoints import Endpoints
    from keras_attention.serving.loading import count_run_threads, loading_options
    from keras_attention.serving.model_manager import ModelManager

    with ThreadPoolExecutor(count_run_threads(setup), thread_name_prefix="run") as executor:
        allow_unavailable_labels = config.allow_version_labels_for_unavailable_models
        models = ModelManager(loading_options(setup, executor), allow_unavailable_labels)
        endpoints = Endpoints(setup, models, rest_listener)
        places = setup.places(await endpoints.start(config.port))
        model_config = ModelServerConfig.FromString(setup.models)
        tasks = [asyncio.create_task(_bring_up(models, model_config, endpoints, places))]
        if config.model_config_file is not None and config.model_config_file_poll_wait_seconds > 0:
            wait = config.model_config_file_poll_wait_seconds
            watching = watch_model_config(models.reload, config.model_config_file, wait, model_config)
            tasks.append(asyncio.create_task(watching))
        await stopping.wait()
        _log.info("stopping: answering the requests in flight")
        for task in tasks:
            task.cancel()
        await endpoints.stop()
        await models.close()


async def _bring_up(models: "ModelManager", config: ModelServerConfig, endpoints: "Endpoints", places: str) -> None:
    """Puts the first configuration in force, and tells when it is in service."""
    applying = asyncio.create_task(models.apply(config))
    await asyncio.sleep(0)  # by then it is in force and loading, or refused
    if applying.done():
        _log.error("%s", applying.exception())
        return
    await endpoints.announce(lambda name, version: print(f"Serving {name} version {version} at {places}", flush=True))
    try:
        await applying
    except ServingError as error:
        _log.error("%s", error.message)
