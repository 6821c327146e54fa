"""Imports TensorFlow without the lines about oneDNN and CUDA that it writes to stderr on the way."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


def import_tensorflow_quietly() -> None:
    """Imports tensorflow and tensorflow_text with nothing on stderr; does nothing if TensorFlow is there already.

    TensorFlow 2.21 writes from static initialisers, before it reads any environment variable, so the file descriptor
    itself is redirected meanwhile. If the import fails, what was held back is written after all.
    `TF_CPP_MIN_LOG_LEVEL` becomes 3 unless it is set.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" in sys.modules:
        return
    with _stderr_held_back():
        import tensorflow  # noqa: F401
        import tensorflow_text  # noqa: F401


@contextlib.contextmanager
def _stderr_held_back() -> Iterator[None]:
    """Holds back what the process, C++ code included, writes to stderr, and writes it after all if the block raises."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
