"""Minutes of mixed load on one server: memory, errors and latency, a line a minute.

`python -m benchmarks.serving --soak 30` runs it: steady requests for the benchmark's classifier over gRPC and REST,
beside them those of `benchmarks.serving_fuzz`, and a new version of the classifier every minute.
"""

import asyncio
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.serving_cells import ask
from benchmarks.serving_competitors import targets_at
from benchmarks.serving_fuzz import Report, models_server
from benchmarks.serving_model import MODEL_NAME
from benchmarks.serving_processes import open_files, resident_mebibytes

_RATES = {"grpc": 100.0, "rest": 50.0}  # requests a second
_CLIENTS = 8
_BAD_EACH_SECOND = 5
_MINUTE = 60.0


def soak(config):
    """Loads a server for `config.soak` minutes and prints what becomes of it.

    Args:
        config: `benchmarks.serving.Config`; its workers are those of the first number.

    Raises:
        SystemExit: with 1, if a right request failed or a wrong one was treated wrongly.
    """
    workers = config.workers[0]
    flags = [*config.server_flags.split(), *([f"--num_workers={workers}"] if workers > 1 else [])]
    with tempfile.TemporaryDirectory() as scratch:
        base_path = Path(scratch) / MODEL_NAME
        shutil.copytree(config.folder / MODEL_NAME, base_path)
        (Path(scratch) / "models").mkdir()
        with models_server(Path(scratch) / "models", *flags, **{MODEL_NAME: base_path}) as fuzzer:
            faults = asyncio.run(_soak(config, fuzzer, base_path))
    print(*faults, sep="\n")
    if faults:
        raise SystemExit(1)


async def _soak(config, fuzzer, base_path):
    targets = targets_at(config.folder, "", fuzzer.addresses["grpc"], fuzzer.addresses["rest"], fuzzer.pid)
    print("minute  grpc/s  p50 ms  p99 ms  rest/s  p50 ms  p99 ms  failed  bad sent  faults   MiB  files  version")
    report, failed, end = Report(), 0, time.monotonic() + config.soak * _MINUTE
    minute = 0
    while time.monotonic() < end:
        minute += 1
        seconds = min(_MINUTE, max(end - time.monotonic(), 5.0)) - 2.0  # the generators take their time to start
        *cells, _, version = await asyncio.gather(
            *(asyncio.to_thread(ask, targets[name], _CLIENTS, seconds, rate, minute) for name, rate in _RATES.items()),
            _send_bad(fuzzer, report, config.seed, minute, seconds),
            _reload(base_path, seconds / 2),
        )
        failed += sum(cell.bad for cell in cells)
        latencies = "".join(f"{cell.rate:8.0f}{cell.p50:8.2f}{cell.p99:8.2f}" for cell in cells)
        faults = len(report.faults) + len(fuzzer.errors_in_log())
        print(
            f"{minute:6}{latencies}{failed:8}{report.statuses.total():10}{faults:8}"
            f"{resident_mebibytes(fuzzer.pid):6.0f}{open_files(fuzzer.pid):7}{version:9}",
            flush=True,
        )
    return [*report.faults, *fuzzer.errors_in_log(), *([f"{failed} right requests failed"] if failed else [])]


async def _send_bad(fuzzer, report, seed, minute, seconds):
    first = minute * 100_000
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await fuzzer.send(seed, range(first, first + _BAD_EACH_SECOND), report)
        first += _BAD_EACH_SECOND
        await asyncio.sleep(1.0)


async def _reload(base_path, seconds):
    """Puts another version beside the present one after some seconds, and takes the older ones away: its number."""
    await asyncio.sleep(seconds)
    *older, present = sorted((path for path in base_path.iterdir() if path.name.isdecimal()), key=_number)
    for path in older:
        shutil.rmtree(path)
    version = _number(present) + 1
    await asyncio.to_thread(shutil.copytree, present, base_path / ".next")
    (base_path / ".next").rename(base_path / str(version))
    return version


def _number(path):
    return int(path.name)
