"""What TensorBoard makes of a run: its own reader of event files, and the real server."""

import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EVERYTHING = dict.fromkeys(("scalars", "histograms", "images", "tensors", "compressedHistograms"), 0)
START_SECONDS = 60


def read(folder):
    """TensorBoard's reader of the event files in a folder, which has read them."""
    return EventAccumulator(str(folder), size_guidance=EVERYTHING).Reload()


def curves(folder):
    """dict of dict of the values by step, by tag; a step that stands there twice is an error."""
    reader = read(folder)
    return {tag: _by_step([(e.step, e.value) for e in reader.Scalars(tag)]) for tag in reader.Tags()["scalars"]}


def _by_step(points):
    by_step = dict(points)
    assert len(by_step) == len(points), f"steps that stand there twice: {points}"
    return by_step


class Board:
    """The `tensorboard` command on a folder, at a free port.

    Args:
        folder: `--logdir`.
        log: path for what it prints.
        options: list of str, further arguments.
    """

    def __init__(self, folder, log, *options):
        command = [str(Path(sys.executable).parent / "tensorboard"), "--logdir", str(folder), "--host", "127.0.0.1"]
        self._log = Path(log)
        with self._log.open("wb") as file:
            self._process = subprocess.Popen(
                [*command, "--port", "0", "--reload_interval", "1", *options], stdout=file, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_SECONDS
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", self._log.read_text("utf-8", "replace"))):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"tensorboard did not start: {self._log.read_text('utf-8', 'replace')}")
            time.sleep(0.1)
        self.url = found[0]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        """Ends the process."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def get(self, path, body=None, **arguments):
        """What it answers, as bytes."""
        query = f"?{urllib.parse.urlencode(arguments)}" if arguments else ""
        data = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/data/{path}{query}", data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.read()

    def wait_for_runs(self, *names):
        """Waits until it has found the runs; returns all their names."""
        return self.wait_for(lambda: self.json("runs"), lambda runs: set(names) <= set(runs))

    def wait_for(self, ask, is_there):
        """Asks until the answer is as wanted: it reads the files while it answers."""
        deadline = time.monotonic() + START_SECONDS
        while not is_there(answer := ask()):
            assert time.monotonic() < deadline, answer
            time.sleep(0.2)
        return answer

    def json(self, path, body=None, **arguments):
        """What it answers, from JSON."""
        return json.loads(self.get(path, body, **arguments))

    def curve(self, run, tag):
        """dict of the values by step."""
        points = self.json("plugin/scalars/scalars", run=run, tag=tag)
        return _by_step([(step, value) for _, step, value in points])
