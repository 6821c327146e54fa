"""The launcher starts workers, ends them together and starts them again."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_attention.training import launch, read_cluster

# The file by itself, since the package around it takes seconds to import.
LAUNCHER = [sys.executable, "-P", launch.__file__]
INDEX = "import json, os, signal, sys, time\nindex = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"


def _start(options, program):
    command = [*LAUNCHER, *options.split(), "--", sys.executable, "-u", "-c", INDEX + program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _run(options, program):
    process = _start(options, program)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output.splitlines(), errors


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_every_worker_is_told_who_it_is_and_its_lines_have_its_number():
    status, lines, _ = _run("--workers 3", "print(os.environ['TF_CONFIG']); print('é', end='')")
    assert status == 0
    clusters = {line[:4]: read_cluster(line[4:]) for line in lines if "cluster" in line}
    assert {prefix: cluster.index for prefix, cluster in clusters.items()} == {"[0] ": 0, "[1] ": 1, "[2] ": 2}
    assert len({cluster.workers for cluster in clusters.values()}) == 1
    assert sorted(line for line in lines if "cluster" not in line) == ["[0] é", "[1] é", "[2] é"]


def test_with_addresses_only_the_worker_of_this_host_is_started():
    addresses = f"127.0.0.1:{_free_port()}", "elsewhere:2222"
    status, (line,), _ = _run(f"--addresses {' '.join(addresses)} --index 0", "print(os.environ['TF_CONFIG'])")
    assert status == 0
    assert line.startswith("[0] ")
    assert read_cluster(line[4:]).workers == addresses


@pytest.mark.parametrize(("end", "status"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", 137)])
def test_a_worker_that_dies_ends_the_others_once_they_have_said_what_they_have_to_say(end, status):
    others = "time.sleep(1); print('I lost the other one'); time.sleep(600)"
    program = f"if index == 1: {end}\n{others}"
    assert _run("", program)[:2] == (status, ["[0] I lost the other one"])


@pytest.mark.parametrize(("restarts", "status"), [(2, 0), (1, 9)])
def test_all_are_started_again_as_often_as_is_allowed(tmp_path, restarts, status):
    program = (
        f"path = {str(tmp_path)!r} + f'/{{index}}'\n"
        "open(path, 'a').write('x')\n"
        "if index == 0 and len(open(path).read()) < 3: sys.exit(9)\n"
        "if len(open(path).read()) < 3: time.sleep(600)"
    )
    code, lines, _ = _run(f"--max-restarts {restarts}", program)
    assert code == status
    assert lines == [
        f"launch: worker 0 ended with status 9; all are started again, {number + 1} of {restarts}"
        for number in range(restarts)
    ]
    assert [len((tmp_path / name).read_text()) for name in "01"] == [restarts + 1] * 2


_WAITS = """
def stop(number, frame):
    print('saved')
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print('ready', os.getpid())
time.sleep(600)
"""


def _when_ready(process):
    """The processes of two workers that wait."""
    return [int(process.stdout.readline().split()[-1]) for _ in range(2)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_workers_and_they_are_not_started_again(number):
    process = _start("--max-restarts 5", _WAITS)
    _when_ready(process)
    os.killpg(process.pid, number)  # as a terminal does it
    assert process.communicate(timeout=60)[0].splitlines() in (
        ["[0] saved", "[1] saved"],
        ["[1] saved", "[0] saved"],
    )
    assert process.returncode == 143


def test_a_second_signal_kills_workers_that_do_not_end():
    program = "signal.signal(signal.SIGTERM, lambda *_: print('no')); print('ready', os.getpid())\n"
    process = _start("", program + "while True: time.sleep(600)")
    _when_ready(process)
    process.terminate()
    assert sorted(process.stdout.readline() for _ in range(2)) == ["[0] no\n", "[1] no\n"]
    assert process.poll() is None
    process.terminate()
    assert process.wait(60) == 137
    process.communicate()


def test_workers_end_with_a_launcher_that_was_killed():
    process = _start("", "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', os.getpid()); time.sleep(600)")
    pids = _when_ready(process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while any(map(_runs, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid):
    """Whether a process runs: one that has ended stays a zombie until somebody asks how."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_what_a_worker_has_started_itself_ends_with_it():
    program = "import subprocess; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    process = _start("", f"{program}print('ready', child.pid)\nif index == 1: sys.exit(3)\nchild.wait()")
    pids = _when_ready(process)
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert not any(map(_runs, pids))


def test_a_worker_that_somebody_else_has_terminated_has_failed(tmp_path):
    once = f"path = {str(tmp_path)!r} + '/once'\nif index == 1 and not os.path.exists(path):\n    open(path, 'w')\n"
    status, lines, _ = _run("--max-restarts 1", f"{once}    os.kill(os.getpid(), signal.SIGTERM)\n")
    assert (status, lines) == (0, ["launch: worker 1 ended with status 143; all are started again, 1 of 1"])


def test_a_port_that_is_taken_is_named():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        status, lines, errors = _run(f"--addresses {address} b:1 --index 0", "print('never')")
    assert (status, lines) == (1, [])
    assert "launch: the port of worker 0 cannot be had: [Errno 98] Address already in use" in errors
    assert f"Received: {address}" in errors


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--", "no-such-program", "--flag"], 127, "launch: [Errno 2] No such file or directory: 'no-such-program'"),
        (["--workers", "2"], 2, "launch: no command was given"),
        (["--"], 2, "launch: no command was given"),
        (["--addresses", "a", "--index", "0", "--", "true"], 1, "the port of worker 0 cannot be had"),
        (["--addresses", "a:1", "--", "true"], 2, "`addresses` and `index` go together"),
        (["--addresses", "a:1", "--index", "1", "--", "true"], 2, "`addresses` and `index` go together"),
        (["--index", "0", "--", "true"], 2, "`addresses` and `index` go together"),
        (["--workers", "0", "--", "true"], 2, "`workers` must be at least 1"),
    ],
)
def test_commands_that_make_no_sense_are_refused(arguments, status, message):
    done = subprocess.run([*LAUNCHER, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert message in " ".join(done.stderr.replace("│", " ").split())
