"""The embedded server: a gRPC server that speaks TensorFlow Serving's protocol, for one machine."""

import asyncio
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from keras_attention.serving.batching_options import BatchingOptions, read_batching_options
from keras_attention.serving.config import ServerConfig
from keras_attention.serving.errors import ServingError, StartupError
from keras_attention.serving.grpc_listener import (
    join_address,
    listen,
    read_credentials,
    require_free_port,
    require_free_socket,
)
from keras_attention.serving.model_config import check_labels, read_model_settings, single_model
from keras_attention.serving.protocol import UNLIMITED_MESSAGES, ModelServerConfig
from keras_attention.serving.quiet_tensorflow import import_tensorflow_quietly
from keras_attention.serving.text_files import read_text_message

if TYPE_CHECKING:
    from keras_attention.serving.model_manager import ModelManager
    from keras_attention.serving.servable import Servable
    from keras_attention.serving.served_model import ServedModel

_log = logging.getLogger(__name__)

# How long requests in flight may take to finish after SIGTERM or SIGINT.
_DRAIN_SECONDS = 30.0

# The names under which the health service answers: the server as a whole, and the service that clients call.
_HEALTH_NAMES = ("", "tensorflow.serving.PredictionService")


def serve(config: ServerConfig) -> None:
    """Serves models until SIGTERM or SIGINT, then answers the requests in flight and returns.

    When the first version of a model is in service, one line goes to stdout:
    ``Serving chatbot version 1 at 127.0.0.1:8500 (gRPC)``. When that is so for every model, the health service says
    SERVING.

    Args:
        config: what to serve and where.

    Raises:
        StartupError: if a file of the configuration makes no sense, a base path does not exist or the port cannot be
            had; in one line.

    Example:
        >>> serve(ServerConfig(model_base_path=Path("saved_models/chatbot"), model_name="chatbot"))
        Serving chatbot version 1 at 127.0.0.1:8500 (gRPC)
    """
    if config.model_config_file is None and not config.model_base_path.is_dir():
        raise StartupError(f"the base path {config.model_base_path} does not exist or is no folder")
    try:
        files = _read_files(config)
    except ServingError as error:
        raise StartupError(error.message) from None
    require_free_port(config.host, config.port)
    if config.grpc_socket_path is not None:
        require_free_socket(config.grpc_socket_path)
    asyncio.run(_serve(config, files))


@dataclass(frozen=True)
class _Files:
    """What the files that the flags name say."""

    models: ModelServerConfig
    batching: BatchingOptions
    credentials: grpc.ServerCredentials | None


def _read_files(config: ServerConfig) -> _Files:
    if config.model_config_file is None:
        models = single_model(config.model_name, config.model_base_path)
    else:
        models = read_text_message(config.model_config_file, ModelServerConfig())
        try:
            settings = read_model_settings(models)
            check_labels(settings, {}, {}, config.allow_version_labels_for_unavailable_models)
        except ServingError as error:
            raise ServingError(error.code, f"{config.model_config_file}: {error.message}") from None
    return _Files(
        models,
        read_batching_options(config.batching_parameters_file)
        if config.enable_batching
        else BatchingOptions(config.max_batch_size),
        None if config.ssl_config_file is None else read_credentials(config.ssl_config_file),
    )


async def _serve(config: ServerConfig, files: _Files) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)

    # Here, because they import TensorFlow, which takes seconds: a wrong path or a taken port is told at once.
    import_tensorflow_quietly()
    from keras_attention.serving.config_watcher import watch_model_config
    from keras_attention.serving.model_manager import ModelManager
    from keras_attention.serving.served_model import LoadingOptions
    from keras_attention.serving.services import add_services

    threads = max(os.cpu_count() or 1, files.batching.num_batch_threads)
    with ThreadPoolExecutor(threads, thread_name_prefix="run") as executor:
        options = LoadingOptions(
            load=_loader(config),
            executor=executor,
            batching=files.batching,
            poll_wait_seconds=config.file_system_poll_wait_seconds,
            max_num_load_retries=config.max_num_load_retries,
            load_retry_seconds=config.load_retry_interval_micros / 1e6,
        )
        models = ModelManager(options, config.allow_version_labels_for_unavailable_models)
        health_service = health.aio.HealthServicer()
        await _set_health(health_service, health_pb2.HealthCheckResponse.NOT_SERVING)

        # SO_REUSEPORT, gRPC's default, would let two servers share a port and each answer some of the requests.
        arguments = {**dict(UNLIMITED_MESSAGES), "grpc.so_reuseport": 0, **dict(config.channel_arguments)}
        server = grpc.aio.server(options=tuple(arguments.items()))
        add_services(server, models)
        health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
        _add_reflection(server)
        port = listen(server, join_address(config.host, config.port), files.credentials)
        address = join_address(config.host, port)
        if config.grpc_socket_path is not None:
            listen(server, f"unix:{config.grpc_socket_path}", files.credentials)
            _log.info("listening at unix:%s", config.grpc_socket_path)
        await server.start()
        _log.info("listening at %s", address)

        tasks = [asyncio.create_task(_bring_up(models, files.models, address, health_service))]
        if config.model_config_file is not None and config.model_config_file_poll_wait_seconds > 0:
            wait = config.model_config_file_poll_wait_seconds
            tasks.append(asyncio.create_task(watch_model_config(models, config.model_config_file, wait, files.models)))
        await stopping.wait()
        _log.info("stopping: answering the requests in flight")
        for task in tasks:
            task.cancel()
        await health_service.enter_graceful_shutdown()
        await server.stop(_DRAIN_SECONDS)
        await models.close()


def _loader(config: ServerConfig):
    from keras_attention.serving.servable import Servable, SessionThreads
    from keras_attention.serving.warmup import warm_up

    threads = SessionThreads(config.tensorflow_intra_op_parallelism, config.tensorflow_inter_op_parallelism)

    def load(path: Path) -> "Servable":
        servable = Servable(path, threads=threads)
        if config.enable_model_warmup:
            try:
                warm_up(servable, path)
            except BaseException:
                servable.close()
                raise
        return servable

    return load


async def _bring_up(
    models: "ModelManager", config: ModelServerConfig, address: str, health_service: health.aio.HealthServicer
) -> None:
    """Puts the first configuration in force, and tells when it is in service."""
    applying = asyncio.create_task(models.apply(config))
    await asyncio.sleep(0)  # by then it is in force and loading, or refused
    if applying.done():
        _log.error("%s", applying.exception())
        return
    await asyncio.gather(*(_announce(name, model, address) for name, model in models.models.items()))
    await _set_health(health_service, health_pb2.HealthCheckResponse.SERVING)
    try:
        await applying
    except ServingError as error:
        _log.error("%s", error.message)


async def _announce(name: str, model: "ServedModel", address: str) -> None:
    await model.available.wait()
    print(f"Serving {name} version {model.find().version} at {address} (gRPC)", flush=True)


async def _set_health(health_service: health.aio.HealthServicer, status: int) -> None:
    for name in _HEALTH_NAMES:
        await health_service.set(name, status)


def _add_reflection(server: grpc.aio.Server) -> None:
    # The stubs know the messages; the services' own descriptions are in these.
    from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2  # noqa: F401

    from keras_attention.serving.services import MODEL_SERVICE, PREDICTION_SERVICE

    names = (PREDICTION_SERVICE, MODEL_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
