"""Verification: does TensorFlow's own loader, in a fresh process, give the answers that the export gave?"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path


class VerificationError(RuntimeError):
    """A SavedModel that a server would refuse or that answers otherwise than when it was exported."""


@dataclasses.dataclass(frozen=True)
class VerificationReport:
    """What was checked.

    Attributes:
        path: the version's folder.
        signatures: signature name -> how many warm-up records were run.
        seconds: float, how long it took, the start of the process included.
    """

    path: Path
    signatures: dict[str, int]
    seconds: float

    @property
    def records(self) -> int:
        """How many records were run in all."""
        return sum(self.signatures.values())


def verify(path: str | os.PathLike) -> VerificationReport:
    """Runs the warm-up records of a SavedModel in a fresh process and compares with their stored responses.

    The process imports neither Keras nor this package and loads with `tf.compat.v1.saved_model.load`, TensorFlow
    Serving's C++ path, on the CPU. It also runs all records of a signature as one batch, and every row alone: the
    answers must be the same, to 1e-5 + 1e-4 of the value for floating point numbers and exactly for all else.

    Args:
        path: a version's folder, or the folder of versions, of which the newest is taken.

    Returns:
        `VerificationReport`.

    Raises:
        VerificationError: with what is wrong.

    Example::

        report = keras_attention.serving.verify("saved_models/chatbot")
        print(report.records, "records in", report.seconds, "s")
    """
    version = _version_folder(Path(path))
    start = time.perf_counter()
    done = subprocess.run(
        # -P: without the script's folder on the path, where this package's modules would shadow others.
        [sys.executable, "-P", str(Path(__file__).with_name("session_check.py")), str(version)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        result = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise VerificationError(
            f"{version}: the checking process ended with code {done.returncode}:\n{done.stderr[-2000:]}"
        ) from None
    if "error" in result:
        raise VerificationError(f"{version}: {result['error']}")
    return VerificationReport(version, result["records"], time.perf_counter() - start)


def _version_folder(path):
    if (path / "saved_model.pb").is_file():
        return path
    if not path.is_dir():
        raise VerificationError(f"{path} is not a folder.")
    versions = [entry for entry in path.iterdir() if entry.name.isdecimal() and entry.is_dir()]
    if not versions:
        raise VerificationError(f"{path} holds no saved_model.pb and no version folder.")
    return max(versions, key=lambda entry: int(entry.name))
