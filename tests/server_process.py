"""The embedded server as the process that users start."""

import contextlib
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 40.0


class Server:
    """A `keras-attention serve` process on a free port; without a base path, its flags name a model config file."""

    def __init__(self, base_path: Path | None, model_name: str, log: Path, *flags: str):
        command = [sys.executable, "-m", "keras_attention.cli", "serve"]
        if base_path is not None:
            command += [f"--model_base_path={base_path}", f"--model_name={model_name}"]
        self.log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [*command, "--port=0", *flags],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line.rstrip())

    def wait_for_line(self) -> str:
        """The line on stdout that says what is served, and where."""
        try:
            return self._lines.get(timeout=START_SECONDS)
        except queue.Empty:
            raise AssertionError(f"the server did not come up:\n{self.log.read_text()}") from None

    def wait_for_address(self) -> str:
        return self.wait_for_line().split(" at ")[1].split(" ")[0]

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def close(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.terminate()
        self.process.kill()
        self.process.wait(STOP_SECONDS)
        self.process.stdout.close()
