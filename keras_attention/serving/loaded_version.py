"""One version in service: its requests go through batch queues, and it is closed when the last one is answered."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from keras_attention.serving.batching import BatchQueue
from keras_attention.serving.batching_options import BatchingOptions
from keras_attention.serving.metrics import Metrics
from keras_attention.serving.servable import Servable
from keras_attention.serving.signature import Signature

# How many requests of a signature that cannot be merged are handed to the executor at a time; it has fewer threads.
_UNMERGED_AT_ONCE = 64


class LoadedVersion:
    """A loaded version of a model with a batch queue for each of its signatures. It belongs to one event loop.

    Args:
        version: its number.
        servable: the loaded SavedModel; closed by `close`.
        executor: where it runs.
        batching: how its requests are merged.
        metrics: what is counted and measured; None for nothing.

    Attributes:
        version: its number.
        servable: the loaded SavedModel.
    """

    def __init__(
        self,
        version: int,
        servable: Servable,
        executor: Executor,
        batching: BatchingOptions,
        metrics: Metrics | None = None,
    ):
        self.version = version
        self.servable = servable
        self._executor = executor
        self._batching = batching
        self._metrics = metrics
        self._queues: dict[str, BatchQueue] = {}
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextlib.contextmanager
    def in_use(self) -> Iterator["LoadedVersion"]:
        """Keeps the version from being closed while a request needs it."""
        self._users += 1
        self._idle.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if self._users == 0:
                self._idle.set()

    async def run(self, signature: Signature, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Runs one request, together with others where their rows can be merged.

        Args:
            signature: one of the servable's signatures.
            inputs: the request's inputs, checked by `Signature.read_inputs`.

        Returns:
            Its outputs by name.

        Raises:
            ServingError: if the computation fails, or RESOURCE_EXHAUSTED if too many requests wait.
        """
        if signature.name not in self._queues:
            # Requests that cannot be merged have nothing to wait for: they run side by side.
            options = (
                self._batching if signature.batchable else replace(self._batching, num_batch_threads=_UNMERGED_AT_ONCE)
            )
            run = partial(self.servable.run, signature)
            self._queues[signature.name] = BatchQueue(run, self._in_thread, options, self._metrics)
        return await self._queues[signature.name].submit(inputs, signature.rows(inputs))

    async def _in_thread(self, function: Callable, *arguments) -> Any:
        """Calls a function in the executor, with the version in use until the call has ended.

        A client that goes, or whose deadline passes, cancels what waits for the call and not the call itself.
        """
        loop = asyncio.get_running_loop()
        call = self._executor.submit(function, *arguments)
        use = contextlib.ExitStack()
        use.enter_context(self.in_use())
        call.add_done_callback(lambda _: loop.call_soon_threadsafe(use.close))
        return await asyncio.wrap_future(call)

    async def close(self) -> None:
        """Waits until no request uses the version and no call runs, and frees it."""
        await self._idle.wait()
        await asyncio.to_thread(self.servable.close)
