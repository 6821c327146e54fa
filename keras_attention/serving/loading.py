"""How the versions of a server's models are loaded, warmed up and run, as its flags say."""

import os
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from keras_attention.serving.config import ServerConfig
from keras_attention.serving.metrics import Metrics
from keras_attention.serving.servable import Servable, SessionThreads
from keras_attention.serving.served_model import LoadingOptions
from keras_attention.serving.setup import Setup
from keras_attention.serving.warmup import warm_up


def count_run_threads(setup: Setup) -> int:
    """How many threads the executor needs that `loading_options` takes."""
    return max(os.cpu_count() or 1, setup.batching.num_batch_threads)


def loading_options(setup: Setup, executor: Executor) -> LoadingOptions:
    """Takes from the flags how versions are found, loaded and run.

    Args:
        setup: the flags and what their files say.
        executor: where requests run.

    Returns:
        The options of every model.
    """
    config = setup.config
    return LoadingOptions(
        load=_loader(config),
        executor=executor,
        batching=setup.batching,
        poll_wait_seconds=config.file_system_poll_wait_seconds,
        max_num_load_retries=config.max_num_load_retries,
        load_retry_seconds=config.load_retry_interval_micros / 1e6,
        metrics=Metrics(setup.batching.thread_pool_name) if config.rest_api_port and setup.metrics_path else None,
    )


def session_threads(config: ServerConfig, cores: int) -> SessionThreads:
    """How many threads TensorFlow uses, where the flags leave it open too.

    Half of the cores, shared by the workers, are for TensorFlow's operations: the other half is busy with requests. And
    a run stays in the thread that began it: handing each operation to TensorFlow's own threads costs more than the
    operations of a small model do.

    Args:
        config: the flags.
        cores: of the machine.

    Returns:
        The threads of each process.
    """
    intra_op = config.tensorflow_intra_op_parallelism or max(1, cores // (2 * config.num_workers))
    return SessionThreads(intra_op, config.tensorflow_inter_op_parallelism or -1)


def _loader(config: ServerConfig) -> Callable[[Path], Servable]:
    threads = session_threads(config, os.cpu_count() or 1)

    def load(path: Path) -> Servable:
        servable = Servable(path, threads=threads)
        if config.enable_model_warmup:
            try:
                warm_up(servable, path)
            except BaseException:
                servable.close()
                raise
        return servable

    return load
