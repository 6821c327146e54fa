"""What all tests share: public data that `make test` fetched, and quiet logs."""

import contextlib
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from keras_attention import fetch
from tests.server_process import Server


def _folder(name):
    folder = fetch.find(name)
    if folder is None:
        pytest.skip(f"{name} is not on this machine: run `make data`")
    return folder


@pytest.fixture(scope="session")
def minilm_folder():
    """The published all-MiniLM-L6-v2 checkpoint."""
    return _folder("all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def corpus_folder():
    """The dialogues of chatterbot-corpus, a folder a language."""
    return _folder("chatterbot-corpus")


@pytest.fixture(scope="session")
def serve(tmp_path_factory):
    """serve(base_path, model_name) -> "host:port" of a server that runs until the tests end."""
    with contextlib.ExitStack() as stack:

        def start(base_path, model_name):
            server = Server(base_path, model_name, tmp_path_factory.mktemp("server") / "log")
            stack.callback(server.close)
            return server.wait_for_address()

        yield start
