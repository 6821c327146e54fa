"""The parent of a server with several worker processes: it keeps them running and makes them one server.

It answers no requests and imports no TensorFlow. What a worker is asked that concerns the server as a whole, it asks
here, and the supervisor asks all workers.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Iterable
from typing import Any

import grpc

from keras_attention.serving.config_watcher import watch_model_config
from keras_attention.serving.control_channel import ChannelClosedError
from keras_attention.serving.errors import ServingError, StartupError, failed_precondition
from keras_attention.serving.grpc_listener import reserve
from keras_attention.serving.metrics import Snapshot, add
from keras_attention.serving.model_config import read_model_settings
from keras_attention.serving.protocol import ModelServerConfig
from keras_attention.serving.setup import DRAIN_SECONDS, Setup
from keras_attention.serving.version_status import VersionStatus
from keras_attention.serving.worker_process import WorkerProcess

_log = logging.getLogger(__name__)

# How often the workers' numbers are fetched: a worker that is killed takes with it what it has counted since.
_SNAPSHOT_SECONDS = 1.0
_SNAPSHOT_PATIENCE_SECONDS = 2.0

# A worker that ends earlier than this has had a short life.
_LONG_LIFE_SECONDS = 60.0
_LONGEST_WAIT_SECONDS = 30.0

# What a worker needs to end beyond the time that its requests have.
_LAST_SECONDS = 10.0


def supervise(setup: Setup) -> None:
    """Serves with several processes until SIGTERM or SIGINT, as `server.serve` does with one.

    Args:
        setup: the flags and what their files say.

    Raises:
        StartupError: if a port cannot be had, or a worker ends before all are in service; in one line.
    """
    config = setup.config
    with contextlib.ExitStack() as stack:
        grpc_port = stack.enter_context(reserve(config.host, config.port)).getsockname()[1]
        if config.rest_api_port:
            stack.enter_context(reserve(config.host, config.rest_api_port))
        asyncio.run(Supervisor(setup, grpc_port).run())


class Supervisor:
    """Keeps a server's workers running, and answers what they ask.

    Args:
        setup: the flags and what their files say.
        port: the gRPC port, reserved.
    """

    def __init__(self, setup: Setup, port: int):
        self._setup = setup
        self._port = port
        self._config = setup.models  # in force, or coming into force
        self._workers: dict[int, WorkerProcess] = {}
        self._reloading = asyncio.Lock()
        self._up = asyncio.Event()  # once every worker has been in service at the same time
        self._stopping = asyncio.Event()
        self._retired: Snapshot = {}
        models = ModelServerConfig.FromString(setup.models).model_config_list.config
        self._announced: dict[str, set[int]] = {model.name: set() for model in models}

    async def run(self) -> None:
        """Runs the workers until SIGTERM or SIGINT.

        Raises:
            StartupError: if a worker ends before all are in service.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stopping.set)
        keeping = [asyncio.create_task(self._keep(number + 1)) for number in range(self._setup.config.num_workers)]
        others = [asyncio.create_task(work) for work in self._side_works()]
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([stopping, *keeping], return_when=asyncio.FIRST_COMPLETED)
        self._stopping.set()
        for task in others:
            task.cancel()
        _log.info("stopping: %d workers answer the requests in flight", len(self._workers))
        await asyncio.gather(*(worker.stop(DRAIN_SECONDS + _LAST_SECONDS) for worker in self._workers.values()))
        await asyncio.gather(*keeping)

    def _side_works(self) -> Iterable:
        config = self._setup.config
        if config.rest_api_port and self._setup.metrics_path:
            yield self._fetch_snapshots_again_and_again()
        if config.model_config_file is not None and config.model_config_file_poll_wait_seconds > 0:
            wait = config.model_config_file_poll_wait_seconds
            current = ModelServerConfig.FromString(self._setup.models)
            yield watch_model_config(self._reload, config.model_config_file, wait, current)

    async def _keep(self, number: int) -> None:
        """Keeps one worker running: starts it, and another one in its place when it ends."""
        short_lives = 0
        while not self._stopping.is_set():
            worker = await WorkerProcess.start(number, self._methods)
            self._workers[number] = worker
            if self._stopping.is_set():  # since it was begun
                await worker.stop(DRAIN_SECONDS + _LAST_SECONDS)
            end = await worker.wait()
            del self._workers[number]
            self._retired = add([self._retired, worker.snapshot])
            if self._stopping.is_set():
                return
            if not self._up.is_set():
                raise StartupError(f"worker {number} ended before the server was up: {end}")
            lived_long = worker.in_service_since and time.monotonic() - worker.in_service_since > _LONG_LIFE_SECONDS
            short_lives = 0 if lived_long else short_lives + 1
            wait = wait_before_restart(short_lives)
            _log.error("worker %d ended: %s; another one takes its place in %.0f s", number, end, wait)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait)

    def _methods(self, worker: WorkerProcess) -> dict:
        """What a worker may ask."""

        async def assignment() -> tuple[int, Setup, int]:
            return worker.number, self._setup, self._port

        async def enlist() -> None:
            await self._enlist(worker)

        async def reload(config: bytes) -> None:
            await self._reload(ModelServerConfig.FromString(config))

        async def announce(model: str, version: int) -> None:
            self._announce(worker.number, model, version)

        return {
            "assignment": assignment,
            "enlist": enlist,
            "reload": reload,
            "statuses": self._statuses,
            "metrics": self._metrics,
            "announce": announce,
        }

    async def _enlist(self, worker: WorkerProcess) -> None:
        """Brings a worker to where the others are; it may take requests when this returns."""
        worker.enlisted = True  # from here on it gets what is reloaded, in order after this
        try:
            await worker.call("apply", self._config)
        except ServingError as error:
            if error.code is not grpc.StatusCode.UNKNOWN:  # as for one whose models could not be loaded
                raise
            _log.error("worker %d: %s", worker.number, error.message)
        if self._up.is_set():
            async with self._reloading:
                await self._require_its_models(worker)
                worker.enter_service()
            return
        worker.enter_service()
        if len(self._in_service()) == self._setup.config.num_workers:
            self._up.set()
        await self._up.wait()

    async def _require_its_models(self, worker: WorkerProcess) -> None:
        """Checks that a replacement can answer for every model for which the others answer."""
        answers = await _ask(self._in_service(), "available")
        lacking = set().union(*answers) - await worker.call("available")
        if lacking:
            raise failed_precondition(f"models could not be loaded that others have: {', '.join(sorted(lacking))}")

    async def _reload(self, config: ModelServerConfig) -> None:
        """Puts a configuration in force in all workers, if none of them refuses it; errors as in ModelManager.apply."""
        content = config.SerializeToString()
        async with self._reloading:
            read_model_settings(config)
            _raise_first(await _ask(self._in_service(), "check", content))
            self._config = content
            _raise_first(await _ask([w for w in self._workers.values() if w.enlisted], "apply", content))

    async def _statuses(self, spec: bytes) -> list[dict[int, VersionStatus] | ServingError]:
        return await _ask(self._in_service(), "statuses", spec)

    async def _metrics(self) -> Snapshot:
        await self._fetch_snapshots()
        return add([self._retired, *(worker.snapshot for worker in self._workers.values())])

    async def _fetch_snapshots(self) -> None:
        async def fetch(worker: WorkerProcess) -> None:
            # What cannot be had now stays as it was.
            with contextlib.suppress(ChannelClosedError, ServingError, TimeoutError):
                worker.snapshot = await asyncio.wait_for(worker.call("snapshot"), _SNAPSHOT_PATIENCE_SECONDS)

        await asyncio.gather(*(fetch(worker) for worker in self._in_service()))

    async def _fetch_snapshots_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(_SNAPSHOT_SECONDS)
            await self._fetch_snapshots()

    def _in_service(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers.values() if worker.in_service_since is not None]

    def _announce(self, number: int, model: str, version: int) -> None:
        """Tells, once, when a model of the first configuration is in service in every worker."""
        told, workers = self._announced.get(model), self._setup.config.num_workers
        if told is None or len(told) == workers:
            return
        told.add(number)
        if len(told) == workers:
            places = self._setup.places(self._port)
            print(f"Serving {model} version {version} at {places}, {workers} workers", flush=True)


def wait_before_restart(short_lives: int) -> float:
    """How long a worker's place stays empty: not at all, then longer and longer for those that keep ending.

    Args:
        short_lives: how many workers in a row have ended in this place soon after they were started.

    Returns:
        Seconds.

    Example:
        >>> [wait_before_restart(short_lives) for short_lives in (0, 1, 2, 3, 4)]
        [0.0, 0.0, 1.0, 2.0, 4.0]
    """
    return min(2.0 ** (short_lives - 2), _LONGEST_WAIT_SECONDS) if short_lives > 1 else 0.0


async def _ask(workers: Iterable[WorkerProcess], method: str, *arguments: Any) -> list:
    """Asks workers at the same time: the answers of those that live, ServingErrors among them."""
    calls = (worker.call(method, *arguments) for worker in workers)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, ChannelClosedError | ServingError):
            raise answer
    return [answer for answer in answers if not isinstance(answer, ChannelClosedError)]


def _raise_first(answers: Iterable) -> None:
    for answer in answers:
        if isinstance(answer, ServingError):
            raise answer
