"""Merges requests that wait for the same signature into one run, by default without ever waiting for more to come.

While a batch runs, whatever arrives queues up; when it is done, the queue's head and everything that can be
merged with it make the next batch. A lone request starts at once, and under load batches grow by themselves. A
timer of two milliseconds, measured on two cores, cost a lone client two thirds of its throughput and gained nothing
under load; it is there for those who set TensorFlow Serving's batching parameters.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc

from keras_attention.serving.batch_assembly import Arrays, NotByRowError, merge, row_shapes, split
from keras_attention.serving.batching_options import BatchingOptions
from keras_attention.serving.errors import ServingError, invalid_argument
from keras_attention.serving.metrics import Metrics

_log = logging.getLogger(__name__)

# A request takes several rounds of the event loop from the socket to the queue. A batch that does not wait for them
# leaves without them, its answers come back one by one, and so do the next requests: with a fast model, 8 to 32 clients
# stayed in batches of one, at 900 requests a second, where this many rounds without a new one give 2,200 to 2,700. A
# lone client's latency is the same.
_QUIET_ROUNDS = 6


@dataclass(eq=False)
class _Request:
    inputs: Arrays
    rows: int  # 1 for a request that cannot be merged: it takes one place in the queue
    answer: asyncio.Future
    likeness: tuple | None  # requests of equal likeness can be merged; None for one that runs by itself
    arrival: float = field(default_factory=time.monotonic)


class BatchQueue:
    """The queue of one signature of one loaded version. It belongs to one event loop.

    Args:
        run: computes the outputs for inputs; called in threads.
        in_thread: calls a function with its arguments in a thread. Such a call goes on when the callers of its requests
            have gone.
        options: how to merge, and how much may wait.
        metrics: what is counted and measured; None for nothing.
    """

    def __init__(
        self,
        run: Callable[[Arrays], Arrays],
        in_thread: Callable[..., Awaitable[list]],
        options: BatchingOptions,
        metrics: Metrics | None = None,
    ):
        self._run = run
        self._in_thread = in_thread
        self._options = options
        self._metrics = metrics
        self._waiting: deque[_Request] = deque()
        self._waiting_rows = 0
        self._full_batch = asyncio.Event()
        self._drains: set[asyncio.Task] = set()
        # Off once an output has turned out not to have one entry per row, whatever its signature says.
        self._merges = True

    async def submit(self, inputs: Arrays, rows: int | None) -> Arrays:
        """Runs one request, alone or with others. A caller that is cancelled before it runs takes it out of the queue.

        Args:
            inputs: arrays by name, of checked names, dtypes and ranks.
            rows: the number of rows of each of them; None for a request that must run by itself.

        Returns:
            The outputs for these inputs.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if too much waits already, INVALID_ARGUMENT if the request alone is more
                than the options allow.
            Exception: what `run` raised for this request; another request's failure stays with that request.
        """
        likeness = None if rows is None else row_shapes(inputs, self._options.pad_variable_length_inputs)
        answer = asyncio.get_running_loop().create_future()
        self._enqueue(_Request(inputs, 1 if rows is None else rows, answer, likeness))
        if len(self._drains) < self._options.num_batch_threads:
            drain = asyncio.create_task(self._drain())
            self._drains.add(drain)
        return await answer

    def _enqueue(self, request: _Request) -> None:
        largest = self._options.max_batch_size
        if request.rows > largest and self._options.rejects_large_requests:
            raise invalid_argument(f"Task size {request.rows} is larger than maximum input batch size {largest}")
        if self._waiting and self._waiting_rows + request.rows > self._capacity:
            self._forget_the_cancelled()
            if self._waiting and self._waiting_rows + request.rows > self._capacity:
                raise self._full(request.rows)
        self._waiting.append(request)
        self._waiting_rows += request.rows
        if self._waiting_rows >= largest:
            self._full_batch.set()

    @property
    def _capacity(self) -> int:
        return self._options.max_batch_size * self._options.max_enqueued_batches

    def _full(self, rows: int) -> ServingError:
        size = self._options.max_batch_size
        batches, open_rows = divmod(self._waiting_rows, size)
        return ServingError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "The batch scheduling queue to which this task was submitted is full; "
            f"task size is {rows} but scheduling capacity is only {max(self._capacity - self._waiting_rows, 0)} "
            f"(num_enqueued_batches={batches + (open_rows > 0)}, "
            f"max_enqueued_batches={self._options.max_enqueued_batches}, "
            f"open_batch_size={open_rows}, max_execution_batch_size={size})",
        )

    def _forget_the_cancelled(self) -> None:
        self._set_waiting([request for request in self._waiting if not request.answer.done()])

    def _set_waiting(self, requests: Sequence[_Request]) -> None:
        self._waiting = deque(requests)
        self._waiting_rows = sum(request.rows for request in requests)
        if self._waiting_rows < self._options.max_batch_size:
            self._full_batch.clear()

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._until_due()
                batch = self._next_batch()
                if not batch:
                    continue
                if self._metrics:
                    now = time.monotonic()
                    rows = self._options.filled(sum(request.rows for request in batch))
                    self._metrics.record_batch((now - request.arrival for request in batch), rows)
                try:
                    results = await self._in_thread(self._run_batch, batch)
                except Exception as error:  # no thread takes it any more
                    results = [error] * len(batch)
                for request, result in zip(batch, results, strict=True):
                    if request.answer.done():
                        continue  # its caller has gone
                    if isinstance(result, Exception):
                        request.answer.set_exception(result)
                    else:
                        request.answer.set_result(result)
        finally:
            self._drains.discard(asyncio.current_task())

    async def _until_due(self) -> None:
        """Returns when a batch is full or its first request has waited long enough."""
        await self._until_quiet()
        if self._waiting and self._options.batch_timeout_seconds:
            patience = self._waiting[0].arrival + self._options.batch_timeout_seconds - time.monotonic()
            if patience > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._full_batch.wait(), patience)

    async def _until_quiet(self) -> None:
        """Lets requests that have reached the process by now be in time for this batch."""
        quiet, waiting = 0, len(self._waiting)
        while quiet < _QUIET_ROUNDS and self._waiting_rows < self._options.max_batch_size:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._waiting) == waiting else 0
            waiting = len(self._waiting)

    def _next_batch(self) -> list[_Request]:
        """Takes the first request and those behind it that fit, and drops those whose caller has gone."""
        batch: list[_Request] = []
        left: list[_Request] = []
        rows = 0
        for request in self._waiting:
            if request.answer.done():
                continue
            if not batch or (
                self._merges
                and request.likeness is not None
                and request.likeness == batch[0].likeness
                and rows + request.rows <= self._options.max_batch_size
            ):
                batch.append(request)
                rows += request.rows
            else:
                left.append(request)
        self._set_waiting(left)
        return batch

    def _run_batch(self, batch: Sequence[_Request]) -> list[Arrays | Exception]:
        # Looked at again: the batch may have waited for a thread.
        wanted = [request for request in batch if not request.answer.done()]
        results = dict(zip(wanted, self._run_together(wanted), strict=True))
        return [results.get(request, _UNWANTED) for request in batch]

    def _run_together(self, batch: Sequence[_Request]) -> list[Arrays | Exception]:
        if len(batch) > 1:
            try:
                return self._run_merged(batch)
            except Exception:
                _log.debug("a batch of %d requests failed; running them one by one", len(batch), exc_info=True)
        return [self._run_alone(request) for request in batch]

    def _run_merged(self, batch: Sequence[_Request]) -> list[Arrays]:
        counts = [request.rows for request in batch]
        rows = self._options.filled(sum(counts))
        outputs = self._run(merge([request.inputs for request in batch], rows))
        try:
            return split(outputs, counts, rows)
        except NotByRowError as error:
            self._merges = False
            _log.warning("%s: requests of this signature are not merged any more", error)
            raise

    def _run_alone(self, request: _Request) -> Arrays | Exception:
        try:
            if self._merges and request.likeness is not None and self._options.filled(request.rows) != request.rows:
                try:
                    return self._run_merged([request])[0]
                except NotByRowError:
                    pass
            return self._run(request.inputs)
        except Exception as error:
            return error


_UNWANTED = ServingError(grpc.StatusCode.CANCELLED, "the caller has gone")
