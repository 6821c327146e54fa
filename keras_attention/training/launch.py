"""Workers of one run, started and ended together: `python -m keras_attention.training.launch -- python train.py`.

Every worker gets its TF_CONFIG. If one dies, the others, which would wait for it, are killed and all are started again:
a run with a checkpoint folder goes on from its newest checkpoint. SIGTERM and Ctrl-C reach all workers as SIGTERM, at
which `training.fit` saves and exits with 143. What a worker prints comes out with its number before each line.

With `--addresses` and `--index` there is one launcher a host, each with the worker of its host. No launcher knows of
the others: where a worker dies TensorFlow ends those that it trained with, and each launcher starts its own again.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import tyro

# What the others have to say why they end, too, before they are killed.
_LAST_WORDS_SECONDS = 5.0
_STOPPED = 128 + signal.SIGTERM
_SET_PARENT_DEATH_SIGNAL = 1
_LIBC = ctypes.CDLL(None)


@dataclasses.dataclass(frozen=True)
class LaunchConfig:
    """Starts the workers of one training run, and starts all again if one dies: launch [options] -- command.

    Attributes:
        workers: How many to start on this host, at free ports. With GPUs rather take one worker and the strategy
            "mirrored": each worker takes all GPUs that it sees.
        addresses: The "host:port" of all workers on all hosts, the chief first, in the place of `workers`.
        index: Which of the addresses is this host's: only that worker is started.
        max_restarts: How often to start all again when one has died.
    """

    workers: int = 2
    addresses: tuple[str, ...] = ()
    index: int | None = None
    max_restarts: int = 0

    def __post_init__(self):
        if self.workers < 1 or self.max_restarts < 0:
            raise ValueError(
                "`workers` must be at least 1 and `max_restarts` at least 0. Received: "
                f"workers={self.workers}, max_restarts={self.max_restarts}"
            )
        if bool(self.addresses) != (self.index is not None) or not 0 <= (self.index or 0) < max(len(self.addresses), 1):
            raise ValueError(
                "`addresses` and `index` go together, and `index` is one of theirs. Received: "
                f"addresses={self.addresses}, index={self.index}"
            )


def launch(config, command):
    """Runs a command as the workers of a run, until all have ended.

    Args:
        config: `LaunchConfig`.
        command: list of str, a program and its arguments.

    Returns:
        int: 0 if all ended well, 143 if they were stopped, else the status of the first that failed, as in a shell.

    Raises:
        OSError: if the command cannot be started or a port is taken.

    Reference: https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable
    """
    signals = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: signals.append(number))
    restarts = 0
    while True:
        index, status, has_failed = _run(config, command, signals)
        if not has_failed or signals or restarts == config.max_restarts:
            return status
        restarts += 1
        _say(f"worker {index} ended with status {status}; all are started again, {restarts} of {config.max_restarts}")


def _run(config, command, signals):
    """Runs all workers once; returns what `_first_failed` does."""
    addresses = config.addresses or _free_addresses(config.workers)
    workers, readers = {}, []
    failed, deadline, passed_on = (None, 0, False), float("inf"), 0
    try:
        for index in range(len(addresses)) if config.index is None else [config.index]:
            workers[index] = _start(command, addresses, index)
        readers = [threading.Thread(target=_show, args=item, daemon=True) for item in workers.items()]
        for reader in readers:
            reader.start()
        running = True
        while running and time.monotonic() < deadline:
            time.sleep(0.05)
            running = None in [worker.poll() for worker in workers.values()]
            if not failed[-1]:
                failed = _first_failed(workers, bool(signals))
                # Those that were stopped have agreed on it, and each ends when it has saved.
                if failed[-1]:
                    deadline = time.monotonic() + _LAST_WORDS_SECONDS
            if len(signals) > passed_on:
                passed_on += 1
                deadline = deadline if passed_on == 1 else 0.0
                for worker in workers.values():
                    _send(worker, signal.SIGTERM)
    finally:
        for worker in workers.values():
            _send(worker, signal.SIGKILL)
            worker.wait()
        for reader in readers:
            reader.join(1.0)  # what a worker has started itself may hold the pipe open
    return failed if failed[-1] else _first_failed(workers, bool(signals))


def _first_failed(workers, stopping):
    """A worker that has failed, else one that was stopped; its status; whether it has failed."""
    ended = [(index, worker.returncode) for index, worker in workers.items() if worker.returncode]
    # One that SIGTERM has ended at once has not saved; that is no failure only where this launcher was told to stop.
    stopped = {_STOPPED, -signal.SIGTERM} if stopping else {_STOPPED}
    for index, status in sorted(ended, key=lambda item: item[1] in stopped):
        return index, status if status > 0 else 128 - status, status not in stopped
    return None, 0, False


def _send(worker, number):
    """Signals a worker and what it has started itself, such as the program that a shell runs."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, number)


def _start(command, addresses, index):
    """Starts one worker, which ends with this process and is not reached by a Ctrl-C meant for it."""
    port = addresses[index].rpartition(":")[2]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
        except (OSError, ValueError, OverflowError) as error:
            raise OSError(f"the port of worker {index} cannot be had: {error}. Received: {addresses[index]}") from error
    tf_config = {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": index}}
    return subprocess.Popen(
        command,
        env={**os.environ, "TF_CONFIG": json.dumps(tf_config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL),
    )


def _show(index, worker):
    """Passes on what a worker prints, a line at a time."""
    for line in worker.stdout:
        _say(line.decode(errors="replace").rstrip("\r\n"), f"[{index}] ")


def _say(text, prefix="launch: "):
    # Nobody may be reading any more, and the workers' pipes are to be emptied all the same.
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{prefix}{text}\n")
        sys.stdout.flush()


def _free_addresses(count):
    """Addresses on this host at ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes]


def main(arguments=None):
    """The command; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    config = tyro.cli(LaunchConfig, prog="python -m keras_attention.training.launch", args=arguments[:end])
    command = arguments[end + 1 :]
    if not command:
        print("launch: no command was given: launch [options] -- python train.py ...", file=sys.stderr)
        return 2
    try:
        return launch(config, command)
    except OSError as error:
        print(f"launch: {error}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 1


if __name__ == "__main__":
    sys.exit(main())
