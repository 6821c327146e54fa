"""Runs of `tests.training.worker` in processes of their own, and what came of them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np


class Run:
    """One process for "one_device" and "mirrored", two for "multi_worker"; each goes through the same fits.

    Args:
        folder: where the files of the run go.
        strategy: str.
        fits: dict of what `worker.run` takes, by name.
    """

    def __init__(self, folder, strategy, fits):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        workers = 2 if strategy == "multi_worker" else 1
        addresses = _free_addresses(workers)
        self._processes = []
        for index in range(workers):
            spec = {"strategy": strategy, "index": index, "runs": fits, "output": str(self.folder / str(index))}
            path = self.folder / f"spec-{index}.json"
            path.write_text(json.dumps(spec))
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            tf_config = {"TF_CONFIG": json.dumps(task)} if workers > 1 else {}
            with (self.folder / f"log-{index}").open("wb") as log:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "tests.training.worker", str(path)],
                        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **tf_config},
                        cwd=Path(__file__).parents[2],
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )

    def wait(self, timeout=900):
        """The exit statuses; where a worker has died, the others are killed, as whatever supervises them must do."""
        try:
            statuses = {}
            while len(statuses) < len(self._processes):
                for index, process in enumerate(self._processes):
                    if index not in statuses:
                        try:
                            statuses[index] = process.wait(0.2)
                        except subprocess.TimeoutExpired:
                            timeout -= 0.2
                if timeout < 0:
                    raise TimeoutError(self.logs())
                if any(status not in (0, 143) for status in statuses.values()):
                    break
        finally:
            self.kill()
        return [process.wait() for process in self._processes]

    def succeed(self):
        """Waits until all is done, and says what was printed if something went wrong; returns itself."""
        statuses = self.wait()
        assert statuses == [0] * len(statuses), self.logs()
        return self

    def kill(self):
        """Ends what still runs."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()

    def logs(self):
        """What the processes printed."""
        return "\n".join(path.read_text(errors="replace")[-6000:] for path in sorted(self.folder.glob("log-*")))

    def steps(self, name, index=0):
        """The logs after each step of a fit; where a step was done twice, the last."""
        lines = (self.folder / f"{index}-{name}.jsonl").read_text().splitlines()
        by_step = {json.loads(line)["step"]: json.loads(line) for line in lines}
        return [by_step[step] for step in sorted(by_step)]

    def losses(self, name, index=0):
        """The loss after each step, the mean of the epoch so far."""
        return np.array([step["loss"] for step in self.steps(name, index)])

    def weights(self, name, index=0):
        """The weights at the end."""
        with np.load(self.folder / f"{index}-{name}.npz") as file:
            return [file[key] for key in file.files]

    def history(self, name, index=0):
        """The history at the end."""
        return self.result(name, index)["history"]

    def error(self, name, index=0):
        """The error that a fit ended with."""
        return self.result(name, index).get("error", "none")

    def result(self, name, index=0):
        """The history or the error."""
        return json.loads((self.folder / f"{index}-{name}.json").read_text())


def _free_addresses(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    finally:
        for each in sockets:
            each.close()
