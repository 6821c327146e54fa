"""The import of TensorFlow without its noise, with a stand-in that is as noisy as TensorFlow and can fail."""

import subprocess
import sys

import pytest

IMPORTING = """
from keras_attention.serving.quiet_tensorflow import import_tensorflow_quietly

import_tensorflow_quietly()
import os, sys, tensorflow_text
print(os.environ["TF_CPP_MIN_LOG_LEVEL"], "tensorflow" in sys.modules)
import_tensorflow_quietly()
os.write(2, b"stderr is back")
"""


@pytest.fixture
def run(tmp_path):
    """Runs the import with a `tensorflow` of the given code."""

    def run(code):
        (tmp_path / "tensorflow.py").write_text("import os\nos.write(2, b'noise')\n" + code)
        (tmp_path / "tensorflow_text.py").write_text("")
        path = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
        return subprocess.run(
            [sys.executable, "-c", path + IMPORTING], capture_output=True, text=True, timeout=60, check=False
        )

    return run


def test_what_tensorflow_writes_while_it_is_imported_is_held_back(run, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    done = run("")
    assert done.stdout == "3 True\n"
    assert done.stderr == "stderr is back"


def test_a_log_level_that_is_set_stays(run, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    assert run("").stdout == "0 True\n"


def test_an_import_that_fails_says_all_that_was_held_back(run):
    done = run("raise ImportError('a library is missing')")
    assert done.returncode == 1
    assert done.stderr.startswith("noise")
    assert "ImportError: a library is missing" in done.stderr
