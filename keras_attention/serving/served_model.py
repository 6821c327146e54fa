"""One model: watches its base path and keeps the newest version in service.

The next version is loaded beside the one in service and takes over when it is ready; the old one answers what it has
begun and is then unloaded. A version that fails to load changes nothing but its own status.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import grpc

from keras_attention.serving.errors import ServingError
from keras_attention.serving.loaded_version import LoadedVersion
from keras_attention.serving.protocol import ModelVersionStatus
from keras_attention.serving.servable import Servable

_log = logging.getLogger(__name__)

# As in TensorFlow Serving: a version that failed may be one that is still being copied.
_LOAD_RETRIES = 5
_LOAD_RETRY_SECONDS = 60.0


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


@dataclass
class VersionStatus:
    """Where a version stands, as `GetModelStatus` reports it.

    Attributes:
        state: one of ModelVersionStatus' states.
        error: why it could not be loaded, if that is so.
    """

    state: int
    error: ServingError | None = None


@dataclass
class _Failure:
    attempts: int
    retry_at: float


class ServedModel:
    """The versions of one model under its base path. It belongs to one event loop.

    Args:
        name: the model's name in requests.
        base_path: the folder with its version folders.
        load: loads a version folder; called in a thread.
        executor: where requests run.
        max_batch_size: the most rows in a merged batch.

    Attributes:
        name: the model's name in requests.
        statuses: the status of every version seen so far by number.
        available: set once a version is in service.
    """

    def __init__(
        self, name: str, base_path: Path, load: Callable[[Path], Servable], executor: Executor, max_batch_size: int
    ):
        self.name = name
        self.statuses: dict[int, VersionStatus] = {}
        self.available = asyncio.Event()
        self._base_path = base_path
        self._load = load
        self._executor = executor
        self._max_batch_size = max_batch_size
        self._loaded: dict[int, LoadedVersion] = {}
        self._failures: dict[int, _Failure] = {}
        self._unloading: set[asyncio.Task] = set()
        self._last_complaint = ""

    def find(self, version: int | None = None) -> LoadedVersion | None:
        """Finds a version in service.

        Args:
            version: its number; None for the newest in service.

        Returns:
            The version, or None if there is no such one in service.
        """
        return self._loaded.get(max(self._loaded, default=None) if version is None else version)

    async def watch(self, poll_wait_seconds: float) -> None:
        """Polls the base path.

        Args:
            poll_wait_seconds: seconds between two looks; 0 for a single look, negative for none, as in TensorFlow
                Serving.
        """
        while poll_wait_seconds >= 0:
            try:
                await self.poll()
            except Exception:
                _log.exception("polling %s for model %s failed", self._base_path, self.name)
            if poll_wait_seconds == 0:
                return
            await asyncio.sleep(poll_wait_seconds)

    async def poll(self) -> None:
        """Looks once at the base path: loads the newest version, then unloads the others."""
        try:
            found = await asyncio.to_thread(list_versions, self._base_path)
        except OSError as error:
            self._complain(f"cannot read the base path of model {self.name}: {error}")
            return
        if not found:
            self._complain(
                f"no version of model {self.name} found under {self._base_path}: waiting for a folder named by a whole "
                f"number, such as {self._base_path / '1'}"
            )
            return
        self._last_complaint = ""
        self._failures = {version: failure for version, failure in self._failures.items() if version in found}
        newest = max(found)
        if newest not in self._loaded and self._may_load(newest):
            await self._load_version(newest, found[newest])
        if newest in self._loaded:
            for version in [version for version in self._loaded if version != newest]:
                self._unload_version(version)

    async def close(self) -> None:
        """Unloads every version, each when its requests are answered."""
        for version in list(self._loaded):
            self._unload_version(version)
        await asyncio.gather(*self._unloading)

    async def _load_version(self, version: int, path: Path) -> None:
        status = self.statuses[version] = VersionStatus(ModelVersionStatus.LOADING)
        begin = time.monotonic()
        try:
            servable = await asyncio.to_thread(self._load, path)
        except Exception as error:
            if not isinstance(error, ServingError):
                error = ServingError(grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}")
            status.state, status.error = ModelVersionStatus.END, error
            attempts = self._failures[version].attempts + 1 if version in self._failures else 1
            self._failures[version] = _Failure(attempts, time.monotonic() + _LOAD_RETRY_SECONDS)
            _log.error("model %s version %d at %s could not be loaded: %s", self.name, version, path, error)
            return
        self._failures.pop(version, None)
        self._loaded[version] = LoadedVersion(version, servable, self._executor, self._max_batch_size)
        status.state = ModelVersionStatus.AVAILABLE
        self.available.set()
        _log.info("model %s version %d loaded in %.1f s", self.name, version, time.monotonic() - begin)

    def _may_load(self, version: int) -> bool:
        failure = self._failures.get(version)
        return failure is None or (failure.attempts <= _LOAD_RETRIES and time.monotonic() >= failure.retry_at)

    def _unload_version(self, version: int) -> None:
        loaded, status = self._loaded.pop(version), self.statuses[version]

        async def unload() -> None:
            await loaded.close()
            status.state = ModelVersionStatus.END
            _log.info("model %s version %d unloaded", self.name, version)

        status.state = ModelVersionStatus.UNLOADING
        task = asyncio.create_task(unload())
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    def _complain(self, message: str) -> None:
        """Logs a state of affairs once, not at every poll."""
        if message != self._last_complaint:
            _log.warning("%s", message)
            self._last_complaint = message
