"""One model: watches its base path and keeps the versions that its policy asks for in service.

A version is loaded beside those in service and takes over when it is ready; one that is wanted no more answers what it
has begun and is then unloaded, but not before one that is wanted is in service. A version that fails to load changes
nothing but its own status.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import grpc

from keras_attention.serving.batching_options import BatchingOptions
from keras_attention.serving.errors import ServingError
from keras_attention.serving.loaded_version import LoadedVersion
from keras_attention.serving.metrics import Metrics
from keras_attention.serving.model_config import ModelSettings
from keras_attention.serving.protocol import ModelVersionStatus
from keras_attention.serving.servable import Servable
from keras_attention.serving.version_status import VersionStatus

_log = logging.getLogger(__name__)

# How often a failed version's turn is thought of when the base path is not polled.
_RETRY_LOOK_SECONDS = 1.0


def list_versions(base_path: Path) -> dict[int, Path]:
    """Lists the version folders under a base path.

    Args:
        base_path: the folder of a model.

    Returns:
        The folders whose names are whole numbers, by number.

    Raises:
        OSError: if the base path cannot be read.
    """
    return {
        int(path.name): path
        for path in base_path.iterdir()
        if path.name.isascii() and path.name.isdecimal() and path.is_dir()
    }


@dataclass(frozen=True)
class LoadingOptions:
    """How versions are found, loaded and run; the same for all models of a server.

    Attributes:
        load: loads a version folder and warms it up; called in a thread.
        executor: where requests run.
        batching: how requests are merged.
        poll_wait_seconds: seconds between two looks at a base path; 0 for a single look, negative for none.
        max_num_load_retries: how often a version that failed is tried again.
        load_retry_seconds: how long after a failure.
        metrics: what is counted and measured; None for nothing.
    """

    load: Callable[[Path], Servable]
    executor: Executor
    batching: BatchingOptions
    poll_wait_seconds: float = 1.0
    max_num_load_retries: int = 5
    load_retry_seconds: float = 60.0
    metrics: Metrics | None = None


@dataclass
class _Failure:
    attempts: int
    retry_at: float


class ServedModel:
    """The versions of one model under its base path. It belongs to one event loop.

    Args:
        settings: its name, base path and version policy.
        options: how versions are found, loaded and run.
        statuses: what is known of the model's versions from an earlier time in service.

    Attributes:
        settings: its name, base path and version policy. Set anew, they hold from the next look at the base path on.
        statuses: the status of every version seen so far by number.
        available: set once a version is in service.
    """

    def __init__(
        self,
        settings: ModelSettings,
        options: LoadingOptions,
        statuses: Mapping[int, VersionStatus] | None = None,
    ):
        self.settings = settings
        self.statuses: dict[int, VersionStatus] = dict(statuses or {})
        self.available = asyncio.Event()
        self._options = options
        self._found: dict[int, Path] = {}
        self._loaded: dict[int, LoadedVersion] = {}
        self._failures: dict[int, _Failure] = {}
        self._looking = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._unloading: set[asyncio.Task] = set()
        self._last_complaint = ""

    @property
    def versions(self) -> set[int]:
        """The versions in service."""
        return set(self._loaded)

    def find(self, version: int | None = None) -> LoadedVersion | None:
        """Finds a version in service.

        Args:
            version: its number; None for the newest in service.

        Returns:
            The version, or None if there is no such one in service.
        """
        return self._loaded.get(max(self._loaded, default=None) if version is None else version)

    async def watch(self) -> None:
        """Polls the base path at intervals, and tries failed versions again, until the model is closed."""
        poll_wait = self._options.poll_wait_seconds
        while poll_wait >= 0:
            wait = min(poll_wait or _RETRY_LOOK_SECONDS, max(self._next_retry() - time.monotonic(), 0))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait)
                return
            try:
                await self.poll(look=poll_wait > 0)
            except Exception:
                _log.exception("polling %s for model %s failed", self.settings.base_path, self.settings.name)

    async def poll(self, look: bool = True) -> None:
        """Looks once at the base path: loads what the policy asks for, then unloads the rest.

        Args:
            look: False to go by what was found at the last look.
        """
        async with self._looking:
            if self._stopping.is_set() or (look and not await self._look()):
                return
            wanted = self.settings.policy.choose(self._found)
            self._failures = {v: failure for v, failure in self._failures.items() if v in wanted}
            missing = sorted(wanted - self._loaded.keys(), reverse=True)
            for version in missing:
                if version not in self._failures:
                    self.statuses[version] = VersionStatus(ModelVersionStatus.START)
            for version in missing:
                if self._may_load(version) and not self._stopping.is_set():
                    await self._load_version(version, self._found[version])
            if not wanted or wanted & self._loaded.keys():
                for version in self._loaded.keys() - wanted:
                    self._unload_version(version)

    async def close(self) -> None:
        """Unloads every version, each when its requests are answered."""
        self._stopping.set()
        async with self._looking:  # a version that is being loaded is unloaded too
            for version in list(self._loaded):
                self._unload_version(version)
        await asyncio.gather(*self._unloading)

    async def _look(self) -> bool:
        name, base_path = self.settings.name, self.settings.base_path
        try:
            self._found = await asyncio.to_thread(list_versions, base_path)
        except OSError as error:
            self._complain(f"cannot read the base path of model {name}: {error}")
            return False
        if self.settings.policy.choose(self._found):
            self._last_complaint = ""
        elif self._found:
            self._complain(f"no version of model {name} under {base_path} is one that its policy names")
        else:
            self._complain(
                f"no version of model {name} found under {base_path}: waiting for a folder named by a whole "
                f"number, such as {base_path / '1'}"
            )
        return True

    async def _load_version(self, version: int, path: Path) -> None:
        name = self.settings.name
        status = self.statuses[version] = VersionStatus(ModelVersionStatus.LOADING)
        begin = time.monotonic()
        try:
            servable = await asyncio.to_thread(self._options.load, path)
        except Exception as error:
            if not isinstance(error, ServingError):
                error = ServingError(grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}")
            status.state, status.error = ModelVersionStatus.END, error
            attempts = self._failures[version].attempts + 1 if version in self._failures else 1
            self._failures[version] = _Failure(attempts, time.monotonic() + self._options.load_retry_seconds)
            _log.error("model %s version %d at %s could not be loaded: %s", name, version, path, error)
            return
        self._failures.pop(version, None)
        options = self._options
        self._loaded[version] = LoadedVersion(version, servable, options.executor, options.batching, options.metrics)
        status.state = ModelVersionStatus.AVAILABLE
        self.available.set()
        _log.info("model %s version %d loaded in %.1f s", name, version, time.monotonic() - begin)

    def _may_load(self, version: int) -> bool:
        failure = self._failures.get(version)
        return failure is None or (self._has_tries_left(failure) and time.monotonic() >= failure.retry_at)

    def _has_tries_left(self, failure: _Failure) -> bool:
        return failure.attempts <= self._options.max_num_load_retries

    def _next_retry(self) -> float:
        times = (failure.retry_at for failure in self._failures.values() if self._has_tries_left(failure))
        return min(times, default=float("inf"))

    def _unload_version(self, version: int) -> None:
        loaded, status = self._loaded.pop(version), self.statuses[version]

        async def unload() -> None:
            await loaded.close()
            status.state = ModelVersionStatus.END
            _log.info("model %s version %d unloaded", self.settings.name, version)

        status.state = ModelVersionStatus.UNLOADING
        task = asyncio.create_task(unload())
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    def _complain(self, message: str) -> None:
        """Logs a state of affairs once, not at every poll."""
        if message != self._last_complaint:
            _log.warning("%s", message)
            self._last_complaint = message
