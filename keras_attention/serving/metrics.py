"""What a server counts and measures, under TensorFlow Serving's names, and the page on which Prometheus reads it.

All of it is sums, kept as plain lists of numbers, so those of several worker processes can be sent and added, and one
page shows them as one server's. prometheus-client counts more slowly (14 microseconds for a request where this takes 4,
and twice as many with its numbers in memory-mapped files, its way of adding processes up) and would call TensorFlow
Serving's request_count request_count_total.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DEFAULT_PATH = "/monitoring/prometheus/metrics"

# By metric and by the values of its labels: of a counter its value alone, of a histogram the sum of what was observed
# and how often it fell into each bucket.
Snapshot = Mapping[str, Mapping[tuple[str, ...], list[float]]]


def _exponential(scale: float, growth: float, count: int) -> tuple[float, ...]:
    return tuple(scale * growth**power for power in range(count))


_TWENTY_MINUTES = _exponential(10, 1.8, 33)  # microseconds, as are all latencies
_ONE_SECOND = _exponential(100, 1.2, 52)
_SIZES = _exponential(1, 2, 15)


@dataclass(frozen=True)
class _Metric:
    """A counter, or with the upper bounds of its buckets a histogram."""

    text: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


_REQUEST_COUNT = ":tensorflow:serving:request_count"
_REQUEST_LATENCY = ":tensorflow:serving:request_latency"
_RUNTIME_LATENCY = ":tensorflow:serving:runtime_latency"
_EXAMPLE_COUNTS = ":tensorflow:serving:request_example_counts"
_EXAMPLE_COUNT_TOTAL = ":tensorflow:serving:request_example_count_total"
_QUEUING_LATENCY = ":tensorflow:serving:batching_session:queuing_latency"
_PROCESSED_BATCH_SIZE = ":tensorflow:serving:batching_session:processed_batch_size"
_WRAPPED_RUN_COUNT = ":tensorflow:serving:batching_session:wrapped_run_count"

_METRICS = {
    _REQUEST_COUNT: _Metric("The total number of requests.", ("model_name", "status")),
    _REQUEST_LATENCY: _Metric(
        "Microseconds from a request's arrival to its answer, if that is OK.",
        ("model_name", "API", "entrypoint"),
        _TWENTY_MINUTES,
    ),
    _RUNTIME_LATENCY: _Metric(
        "Microseconds that a request waits for TensorFlow, in the batch queue and while it runs.",
        ("model_name", "API", "runtime"),
        _TWENTY_MINUTES,
    ),
    _EXAMPLE_COUNTS: _Metric("Rows per request.", ("model",), _SIZES),
    _EXAMPLE_COUNT_TOTAL: _Metric("The total number of rows.", ("model",)),
    _QUEUING_LATENCY: _Metric(
        "Microseconds that a request waits before its batch runs.", ("thread_pool_name",), _ONE_SECOND
    ),
    _PROCESSED_BATCH_SIZE: _Metric("Rows of each batch, with those that only fill it up.", bounds=_SIZES),
    _WRAPPED_RUN_COUNT: _Metric("The total number of batches."),
}


class Metrics:
    """The metrics of one process. They belong to one event loop.

    Args:
        thread_pool_name: what the batching parameters file calls the threads that run batches.

    Example:
        >>> metrics = Metrics()
        >>> metrics.record_request("chatbot", "Predict", "GRPC", "OK", seconds=0.002)
        >>> ':tensorflow:serving:request_count{model_name="chatbot",status="OK"} 1' in render([metrics.snapshot()])
        True
    """

    def __init__(self, thread_pool_name: str = "model_server_batch_threads"):
        self._thread_pool_name = thread_pool_name
        self._values: dict[str, dict[tuple[str, ...], list[float]]] = {name: {} for name in _METRICS}

    def record_request(self, model: str, api: str, entrypoint: str, status: str, seconds: float) -> None:
        """Counts a request that has been answered.

        Args:
            model: the model's name.
            api: the method, such as ``Predict``; in REST the word in the path, such as ``predict``.
            entrypoint: ``GRPC`` or ``REST``.
            status: the status code's name.
            seconds: from its arrival to its answer.
        """
        self._count(_REQUEST_COUNT, model, status)
        if status == "OK":
            self._observe(seconds * 1e6, _REQUEST_LATENCY, model, api, entrypoint)

    def record_run(self, model: str, api: str, rows: int, seconds: float) -> None:
        """Measures what TensorFlow did for a request.

        Args:
            model: the model's name.
            api: the method.
            rows: of the request.
            seconds: from when it was queued to when its outputs were there.
        """
        self._observe(seconds * 1e6, _RUNTIME_LATENCY, model, api, "TF1")
        self._observe(rows, _EXAMPLE_COUNTS, model)
        self._count(_EXAMPLE_COUNT_TOTAL, model, by=rows)

    def record_batch(self, waits: Iterable[float], rows: int) -> None:
        """Measures a batch that begins to run.

        Args:
            waits: seconds that each of its requests was queued.
            rows: the rows of the batch.
        """
        self._count(_WRAPPED_RUN_COUNT)
        self._observe(rows, _PROCESSED_BATCH_SIZE)
        for wait in waits:
            self._observe(wait * 1e6, _QUEUING_LATENCY, self._thread_pool_name)

    def snapshot(self) -> Snapshot:
        """The present numbers, to be sent, added to those of other processes and shown by `render`."""
        return {name: {labels: list(value) for labels, value in cells.items()} for name, cells in self._values.items()}

    def _count(self, name: str, *labels: str, by: float = 1) -> None:
        cells = self._values[name]
        value = cells.get(labels)
        if value is None:
            value = cells[labels] = [0]
        value[0] += by

    def _observe(self, observed: float, name: str, *labels: str) -> None:
        cells, bounds = self._values[name], _METRICS[name].bounds
        value = cells.get(labels)
        if value is None:
            value = cells[labels] = [0] * (len(bounds) + 2)
        value[0] += observed
        value[1 + bisect_left(bounds, observed)] += 1


def add(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Adds the numbers of several processes, or of the same one before and after it was replaced.

    Args:
        snapshots: theirs.

    Returns:
        A snapshot as of one process that did all that they did.
    """
    sums: dict[str, dict[tuple[str, ...], list[float]]] = {name: {} for name in _METRICS}
    for snapshot in snapshots:
        for name, cells in snapshot.items():
            for labels, value in cells.items():
                present = sums[name].get(labels)
                sums[name][labels] = [*map(sum, zip(present, value, strict=True))] if present else list(value)
    return sums


def render(snapshots: Iterable[Snapshot]) -> str:
    """The page that Prometheus reads, in its text format.

    Args:
        snapshots: of each process one; their numbers are added.

    Returns:
        The page.
    """
    lines = []
    for name, cells in add(snapshots).items():
        metric = _METRICS[name]
        lines += [f"# HELP {name} {metric.text}", f"# TYPE {name} {'histogram' if metric.bounds else 'counter'}"]
        for values, numbers in cells.items():
            labels = dict(zip(metric.labels, values, strict=True))
            if not metric.bounds:
                lines.append(_sample(name, labels, numbers[0]))
                continue
            total, *counts = numbers
            # Six digits, as in TensorFlow Serving, by which dashboards select buckets.
            limits = [*(f"{bound:g}" for bound in metric.bounds), "+Inf"]
            for limit, count in zip(limits, accumulate(counts), strict=True):
                lines.append(_sample(f"{name}_bucket", {**labels, "le": limit}, count))
            lines += [_sample(f"{name}_sum", labels, total), _sample(f"{name}_count", labels, sum(counts))]
    return "\n".join(lines) + "\n"


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{pairs}}} {value:.15g}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
