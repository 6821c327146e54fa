"""The processes of the serving benchmarks: started, measured through /proc, and ended."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_STOP_SECONDS = 40.0


def children(pid):
    """The processes that a process has started, as long as they live: list of int."""
    pids = []
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            pids += map(int, path.read_text().split())
    return pids


def descendants(pid):
    """A process and its children, and theirs, as long as they live: list of int."""
    return [pid, *(one for child in children(pid) for one in descendants(child))]


def cpu_seconds(pid):
    """The CPU time that a process and its living descendants have used; 0 for the process 0."""
    ticks = 0
    for one in descendants(pid) if pid else ():
        with contextlib.suppress(OSError):
            # The command's name stands in brackets and may hold anything.
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def resident_mebibytes(pid):
    """The resident memory of a process and its descendants; what they share counts for each of them."""
    total = 0
    for one in descendants(pid):
        with contextlib.suppress(OSError, TypeError):
            total += int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{one}/status").read_text())[1])
    return total / 1024


def open_files(pid):
    """How many file descriptors a process and its descendants hold."""
    total = 0
    for one in descendants(pid):
        with contextlib.suppress(OSError):
            total += len(os.listdir(f"/proc/{one}/fd"))
    return total


def send_to_all(pid, number):
    """Sends a signal to a process and its descendants."""
    for one in descendants(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, number)


@contextlib.contextmanager
def awake(pid):
    """Lets a process and its descendants run for the time of a `with` block, and stops them at its end."""
    send_to_all(pid, signal.SIGCONT)
    try:
        yield
    finally:
        send_to_all(pid, signal.SIGSTOP)


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command, log, **options):
    """A process for the time of a `with` block, which is ended with its descendants.

    Args:
        command: list of str.
        log: pathlib.Path of the file for its stderr, and its stdout unless `options` say otherwise.
        **options: further arguments of `subprocess.Popen`.

    Yields:
        `subprocess.Popen`.
    """
    with log.open("w") as file:
        # A group of its own, so that what it leaves behind can be ended too.
        process = subprocess.Popen(command, start_new_session=True, **{"stdout": file, "stderr": file, **options})
    try:
        yield process
    finally:
        send_to_all(process.pid, signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in filter(None, (process.stdin, process.stdout)):
            pipe.close()


def wait_until(condition, process, log, seconds=90.0):
    """Waits for a condition.

    Args:
        condition: function without arguments.
        process: `subprocess.Popen` that is to fulfil it.
        log: pathlib.Path of its log.
        seconds: float, the most that it may take.

    Raises:
        SystemExit: with the log, if the process ends or the time does.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"a server did not come up:\n{log.read_text()[-4000:]}")
        time.sleep(0.1)


def is_healthy(port):
    """Whether an HTTP server says at /health that it is ready."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        finally:
            connection.close()
    return False
