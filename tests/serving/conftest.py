"""SavedModels written with plain TensorFlow, and servers of them."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf
import tensorflow_text

from keras_attention.serving.client import Client
from tests.server_process import Server

_POLL_OFTEN = ("--file_system_poll_wait_seconds=0.1",)
STRINGS = tf.TensorSpec([None], tf.string)


class Toy(tf.Module):
    """A signature for each thing that a server has to get right; `version` is in every answer."""

    def __init__(self, version: int):
        super().__init__()
        self.version = tf.Variable(version)

    @tf.function(input_signature=[STRINGS])
    def fold(self, text):
        """Text in, text out, with an op of tensorflow-text; `raw_bytes` is the input as it came."""
        rows = tf.shape(text)
        clean = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")
        return {
            "folded": tensorflow_text.case_fold_utf8(clean),
            "raw_bytes": tf.identity(text),
            "length": tf.strings.length(text),
            "version": tf.fill(rows, self.version),
        }

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32), tf.TensorSpec([None], tf.float32)])
    def scale(self, x, factor=tf.constant([2.0])):  # noqa: B008  this is how TensorFlow declares a default
        return {"y": x * factor[:, None]}

    @tf.function(input_signature=[tf.TensorSpec([2, 2], tf.float32)])
    def fixed(self, x):
        return {"y": 2.0 * x}

    @tf.function(input_signature=[STRINGS])
    def picky(self, text):
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(text != "bad"), ["no bad text, please"])]):
            return {"text": tf.identity(text)}

    @tf.function(input_signature=[STRINGS])
    def distinct(self, text):
        """Its output has the unknown first dimension of a batch, but not one entry per row."""
        return {"values": tf.unique(text)[0]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def spin(self, rounds):
        """Takes about a millisecond a round."""
        noise = tf.ones([400_000])
        for _ in tf.range(tf.reduce_max(rounds)):
            noise = tf.sin(noise)
        return {"rounds": rounds, "noise": tf.fill(tf.shape(rounds), noise[0])}


def write_toy_version(base_path: Path, version: int) -> Path:
    """Writes a version as an export should: under another name, then renamed."""
    toy = Toy(version)
    temporary, path = base_path / f".tmp-{version}", base_path / str(version)
    names = ("scale", "fixed", "picky", "distinct", "spin")
    signatures = {"serving_default": toy.fold, **{name: getattr(toy, name) for name in names}}
    tf.saved_model.save(toy, temporary, signatures=signatures)
    return temporary.rename(path)


@pytest.fixture(scope="session")
def write_toy() -> Callable[[Path, int], Path]:
    """Writes a version of the toy model under a base path."""
    return write_toy_version


@pytest.fixture(scope="session")
def toy_path(tmp_path_factory) -> Path:
    """The base path of the toy model with version 1."""
    base_path = tmp_path_factory.mktemp("toy")
    write_toy_version(base_path, 1)
    return base_path


@pytest.fixture
def start_server(tmp_path):
    """Starts servers that are stopped when the test ends."""
    with contextlib.ExitStack() as stack:

        def start(base_path: Path, *flags: str) -> Server:
            server = Server(base_path, "toy", tmp_path / "server.log", *_POLL_OFTEN, *flags)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture(scope="session")
def toy_address(toy_path, tmp_path_factory):
    """The address of a server of the toy model that many tests share."""
    server = Server(toy_path, "toy", tmp_path_factory.mktemp("server") / "log", *_POLL_OFTEN)
    try:
        yield server.wait_for_address()
    finally:
        server.close()


@pytest.fixture
def client(toy_address):
    """A client of the shared server."""
    with Client(toy_address, timeout=30) as client:
        yield client
