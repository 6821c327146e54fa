"""A worker process as its supervisor sees it."""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from keras_attention.serving.control_channel import ControlChannel
from keras_attention.serving.metrics import Snapshot

_STDERR = 2


class WorkerProcess:
    """A running worker process; `start` makes one.

    Attributes:
        number: which of the workers it is, from 1 on. Its replacement has the same.
        enlisted: whether it has the configuration in force and gets those that follow.
        in_service_since: when it began to take requests, by the monotonic clock; None before.
        snapshot: what it has counted and measured, when it was last asked.
    """

    def __init__(self, number: int, process: asyncio.subprocess.Process, channel: ControlChannel):
        self.number = number
        self.enlisted = False
        self.in_service_since: float | None = None
        self.snapshot: Snapshot = {}
        self._process = process
        self._channel = channel

    @classmethod
    async def start(
        cls, number: int, methods: Callable[["WorkerProcess"], Mapping[str, Callable[..., Awaitable[Any]]]]
    ) -> "WorkerProcess":
        """Starts a worker process: a fresh interpreter, in a session of its own, where Ctrl-C does not reach it.

        Args:
            number: which of the workers it is.
            methods: what it may call, by name.

        Returns:
            The worker.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "keras_attention.serving.worker", str(theirs.fileno())]
            process = await asyncio.create_subprocess_exec(
                *command,
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=_STDERR,
                start_new_session=True,
            )
        channel = ControlChannel(ours, {})
        worker = cls(number, process, channel)
        channel.methods |= methods(worker)
        await channel.open()
        return worker

    def enter_service(self) -> None:
        """Notes that it takes requests from now on."""
        self.in_service_since = time.monotonic()

    async def call(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the worker, as `ControlChannel.call` does."""
        return await self._channel.call(method, *arguments)

    async def wait(self) -> str:
        """Waits until it has ended, and says how."""
        code = await self._process.wait()
        await self._channel.wait_closed()  # what it has sent is read
        self._channel.close()
        return f"exit code {code}" if code >= 0 else f"{signal.Signals(-code).name}"

    async def stop(self, patience_seconds: float) -> None:
        """Lets it answer its requests in flight and end; kills it if that takes too long.

        Args:
            patience_seconds: how long it may take.
        """
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), patience_seconds)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
