"""How requests are merged: TensorFlow Serving's batching parameters, and the defaults without them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_attention.serving.config_messages import BatchingParameters
from keras_attention.serving.errors import invalid_argument
from keras_attention.serving.text_files import read_text_message

# What TensorFlow Serving's scheduler takes when the file is silent.
_MAX_BATCH_SIZE = 1000
_MAX_ENQUEUED_BATCHES = 10


@dataclass(frozen=True)
class BatchingOptions:
    """How the requests of one signature are merged.

    Attributes:
        max_batch_size: the most rows in one run.
        batch_timeout_seconds: how long the first request of a batch waits for others; 0 for not at all.
        max_enqueued_batches: how many full batches may wait; what comes beyond is refused.
        num_batch_threads: how many batches of one signature may run at the same time.
        allowed_batch_sizes: the numbers of rows that may be run, increasing; a batch is filled up to the next one.
            Empty for any number.
        pad_variable_length_inputs: whether requests with rows of different sizes are padded and merged.
        rejects_large_requests: whether a request of more than `max_batch_size` rows is refused, as TensorFlow Serving
            does when it batches; otherwise it runs by itself.
        thread_pool_name: what the metrics call the threads that run batches.
    """

    max_batch_size: int = 32
    batch_timeout_seconds: float = 0.0
    max_enqueued_batches: int = 1000
    num_batch_threads: int = 1
    allowed_batch_sizes: Sequence[int] = ()
    pad_variable_length_inputs: bool = False
    rejects_large_requests: bool = False
    thread_pool_name: str = "model_server_batch_threads"

    def filled(self, rows: int) -> int:
        """The number of rows that a batch of `rows` is run with: the next allowed size, if sizes are prescribed.

        Example:
            >>> BatchingOptions(max_batch_size=8, allowed_batch_sizes=(2, 8)).filled(3)
            8
        """
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows) if rows else rows


def read_batching_options(path: Path | None) -> BatchingOptions:
    """Reads a batching parameters file.

    Args:
        path: the file, a BatchingParameters message in text format; None for TensorFlow Serving's defaults.

    Returns:
        The options.

    Raises:
        ServingError: if the file cannot be read or a value makes no sense; in one line, with the file's name.
    """
    parameters = BatchingParameters()
    if path is not None:
        read_text_message(path, parameters)

    def value(name: str, default: int, least: int) -> int:
        given = getattr(parameters, name).value if parameters.HasField(name) else default
        if given < least:
            raise invalid_argument(f"{name} in {path} must be at least {least}. Received: {given}")
        return given

    options = BatchingOptions(
        max_batch_size=value("max_batch_size", _MAX_BATCH_SIZE, least=1),
        batch_timeout_seconds=value("batch_timeout_micros", 0, least=0) / 1e6,
        max_enqueued_batches=value("max_enqueued_batches", _MAX_ENQUEUED_BATCHES, least=1),
        num_batch_threads=value("num_batch_threads", os.cpu_count() or 1, least=1),
        allowed_batch_sizes=tuple(parameters.allowed_batch_sizes),
        pad_variable_length_inputs=parameters.pad_variable_length_inputs,
        rejects_large_requests=True,
        thread_pool_name=parameters.thread_pool_name.value or BatchingOptions.thread_pool_name,
    )
    _check_allowed_sizes(options, path)
    return options


def _check_allowed_sizes(options: BatchingOptions, path: Path | None) -> None:
    sizes = options.allowed_batch_sizes
    if not sizes:
        return
    received = f"in {path}. Received: {list(sizes)} with max_batch_size {options.max_batch_size}"
    if sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
        raise invalid_argument(f"allowed_batch_sizes entries must be monotonically increasing {received}")
    if sizes[-1] != options.max_batch_size:
        raise invalid_argument(f"final entry in allowed_batch_sizes must equal max_batch_size {received}")
