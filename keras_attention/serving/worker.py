"""A worker process of a server with several: loads every model, takes requests, and does as its supervisor says.

It is started by the supervisor, as ``python -m keras_attention.serving.worker FD``, with its end of the control channel
as the file descriptor FD.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from keras_attention.serving.control_channel import ChannelClosedError, ControlChannel
from keras_attention.serving.errors import ServingError, StartupError
from keras_attention.serving.grpc_listener import bind
from keras_attention.serving.quiet_tensorflow import import_tensorflow_quietly
from keras_attention.serving.setup import Setup

_log = logging.getLogger(__name__)


async def work(end: socket.socket) -> int:
    """Works until SIGTERM, or until the supervisor has gone, and answers the requests in flight.

    Args:
        end: this process's end of the control channel.

    Returns:
        The exit code.
    """
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    supervisor = ControlChannel(end, {})
    await supervisor.open()
    try:
        number, setup, port = await supervisor.call("assignment")
    except ChannelClosedError:
        return 1
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)s worker {number}: %(message)s")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    serving = asyncio.create_task(_serve(number, setup, port, supervisor, stopping))
    orphaned = asyncio.create_task(supervisor.wait_closed())
    await _first([serving, orphaned])
    stopping.set()
    try:
        await serving
    except (ServingError, StartupError) as error:
        _log.error("%s", error)
        return 1
    except ChannelClosedError:
        return 1
    finally:
        orphaned.cancel()
    return 0


async def _serve(number: int, setup: Setup, port: int, supervisor: ControlChannel, stopping: asyncio.Event) -> None:
    import_tensorflow_quietly()
    from keras_attention.serving.endpoints import Endpoints
    from keras_attention.serving.loading import count_run_threads, loading_options
    from keras_attention.serving.worker_models import WorkerModels

    config = setup.config
    with contextlib.ExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(count_run_threads(setup), thread_name_prefix="run"))
        allow_unavailable_labels = config.allow_version_labels_for_unavailable_models
        models = WorkerModels(loading_options(setup, executor), allow_unavailable_labels, supervisor)
        tasks = [asyncio.create_task(stopping.wait())]
        try:
            # Only with its models in service does a worker listen: the others answer meanwhile.
            tasks.append(asyncio.create_task(supervisor.call("enlist")))
            await _first(tasks)
            if stopping.is_set():
                return
            await tasks[1]
            rest_listener = None
            if config.rest_api_port:
                rest_listener = stack.enter_context(bind(config.host, config.rest_api_port, shared=True))
            endpoints = Endpoints(setup, models, rest_listener)
            await endpoints.start(port, shared_port=True, unix_socket=number == 1)

            def tell(name: str, version: int) -> None:
                tasks.append(asyncio.create_task(supervisor.call("announce", name, version)))

            tasks.append(asyncio.create_task(endpoints.announce(tell)))
            await stopping.wait()
            _log.info("stopping: answering the requests in flight")
            await endpoints.stop()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await models.close()


async def _first(tasks: Iterable[asyncio.Task]) -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


def main(arguments: list[str]) -> int:
    """Runs a worker.

    Args:
        arguments: the file descriptor of its end of the control channel.

    Returns:
        The exit code.
    """
    return asyncio.run(work(socket.socket(fileno=int(arguments[0]))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
