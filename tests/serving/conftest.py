"""SavedModels written with plain TensorFlow, and servers of them."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
import tensorflow_text
from google.protobuf import text_format
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from keras_attention.serving.client import Client
from tests.server_process import Server
from tests.serving.http_asking import Rest, free_port
from tests.serving.tls import make_certificates, write_ssl_config

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

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def widths(self, ids):
        """Tells what a batch looks like from inside: how many rows and columns it has."""
        shape = tf.shape(ids)
        rows, columns = tf.fill(shape[:1], shape[0]), tf.fill(shape[:1], shape[1])
        return {"total": tf.reduce_sum(ids, 1), "columns": columns, "rows": rows}

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
    names = ("scale", "fixed", "picky", "distinct", "widths", "spin")
    signatures = {"serving_default": toy.fold, **{name: getattr(toy, name) for name in names}}
    tf.saved_model.save(toy, temporary, signatures=signatures)
    return temporary.rename(path)


def write_example_version(base_path: Path, version: int, warmup=()) -> Path:
    """Writes a version with signatures on tf.Examples, all of one input tensor, as estimators write them."""
    v1 = tf.compat.v1
    temporary, path = base_path / f".tmp-{version}", base_path / str(version)
    with tf.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(tf.string, [None], name="examples")
        features = {name: tf.io.FixedLenFeature([], tf.float32, 0.0) for name in ("x", "shift")}
        parsed = tf.io.parse_example(serialized, features)
        x = parsed["x"] + parsed["shift"]
        scores = tf.stack([x, 1.0 - x], axis=1)
        classes = tf.tile([["yes", "no"]], [tf.size(x), 1])
        wide = tf.stack([x, x, x], axis=1)
        utils = v1.saved_model
        info = utils.build_tensor_info

        def classify(**outputs):
            return utils.build_signature_def(
                {"inputs": info(serialized)},
                {name: info(tensor) for name, tensor in outputs.items()},
                utils.signature_constants.CLASSIFY_METHOD_NAME,
            )

        def regress(output):
            return utils.build_signature_def(
                {"inputs": info(serialized)},
                {"outputs": info(output)},
                utils.signature_constants.REGRESS_METHOD_NAME,
            )

        builder = utils.Builder(str(temporary))
        builder.add_meta_graph_and_variables(
            session,
            [tf.saved_model.SERVING],
            {
                "serving_default": classify(classes=classes, scores=scores),
                "only_scores": classify(scores=scores),
                "uneven": classify(classes=classes, scores=wide),
                "flat": classify(scores=x),
                "regress": regress(2.0 * x),
                "regress_column": regress((2.0 * x)[:, None]),
                "regress_wide": regress(wide),
                "plain": utils.build_signature_def(
                    {"inputs": info(serialized)}, {"x": info(x)}, utils.signature_constants.PREDICT_METHOD_NAME
                ),
            },
        )
        builder.save()
    write_warmup(temporary, warmup)
    return temporary.rename(path)


def write_warmup(version_path: Path, logs) -> None:
    """Writes warm-up records into a version's folder."""
    if logs:
        (version_path / "assets.extra").mkdir()
        with tf.io.TFRecordWriter(str(version_path / "assets.extra" / "tf_serving_warmup_requests")) as writer:
            for log in logs:
                writer.write(log if isinstance(log, bytes) else log.SerializeToString())


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


@pytest.fixture(scope="session")
def examples_path(tmp_path_factory) -> Path:
    """The base path of the model on tf.Examples with version 1."""
    base_path = tmp_path_factory.mktemp("examples")
    write_example_version(base_path, 1)
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


@pytest.fixture(scope="session")
def config_file(tmp_path_factory, examples_path) -> Path:
    """A model config file with the model on tf.Examples."""
    path = tmp_path_factory.mktemp("config") / "models.config"
    entry = f"name: 'examples' base_path: '{examples_path}' model_platform: 'tensorflow'"
    path.write_text(f"model_config_list {{ config {{ {entry} }} }}")
    return path


@pytest.fixture(scope="session")
def socket_path(config_file) -> Path:
    """Where the server of the model config file has its UNIX socket."""
    return config_file.with_name("socket")


@pytest.fixture(scope="session")
def config_server(config_file, socket_path, tmp_path_factory):
    """A server of a model config file that many tests share, and leave as they found it."""
    server = Server(
        None,
        "",
        tmp_path_factory.mktemp("server") / "log",
        f"--model_config_file={config_file}",
        "--model_config_file_poll_wait_seconds=0.2",
        "--load_retry_interval_micros=500000",
        f"--grpc_socket_path={socket_path}",
        "--grpc_channel_arguments=grpc.max_receive_message_length=100000,grpc.keepalive_time_ms=60000",
        *_POLL_OFTEN,
    )
    try:
        server.address = server.wait_for_address()
        yield server
    finally:
        server.close()


class Types(tf.Module):
    """A signature for each data type, which gives back what it gets; all that JSON can and cannot hold."""

    @tf.function(input_signature=[STRINGS])
    def echo(self, data):
        return {"echo_bytes": tf.identity(data)}

    @tf.function(input_signature=[STRINGS])
    def text(self, data):
        return {"text": tf.identity(data)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
    def scalar(self, x):
        return {"y": x * 2.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def uneven(self, x):
        return {"all": x, "two": x[:2]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.float32)])
    def divide(self, x, y):
        return {"quotient": x / y}


DTYPES = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64", "bool", "float16")


def write_types_version(base_path: Path, version: int) -> Path:
    """Writes a version with signatures for the data types: each gives back an input of any shape."""
    types = Types()

    def same(dtype):
        return tf.function(lambda x: {"y": tf.identity(x)}, input_signature=[tf.TensorSpec(None, dtype, name="x")])

    signatures = {name: getattr(types, name) for name in ("echo", "text", "scalar", "uneven", "divide")}
    signatures |= {dtype: same(dtype) for dtype in DTYPES}
    path = base_path / str(version)
    tf.saved_model.save(types, path, signatures=signatures)
    return path


@pytest.fixture(scope="session")
def rest_server(toy_path, examples_path, tmp_path_factory):
    """A server with a REST API, metrics and three models that many tests share, and leave as they found it."""
    folder = tmp_path_factory.mktemp("rest")
    (folder / "types").mkdir()
    write_types_version(folder / "types", 1)
    config = ModelServerConfig()
    for name, base_path in (("toy", toy_path), ("examples", examples_path), ("types", folder / "types")):
        config.model_config_list.config.add(name=name, base_path=str(base_path), model_platform="tensorflow")
    config.model_config_list.config[0].version_labels["stable"] = 1
    (folder / "models.config").write_text(text_format.MessageToString(config))
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
    port = free_port()
    server = Server(
        None,
        "",
        folder / "log",
        f"--model_config_file={folder / 'models.config'}",
        "--allow_version_labels_for_unavailable_models",
        f"--rest_api_port={port}",
        "--rest_api_timeout_in_ms=2000",
        "--rest_api_enable_cors_support",
        f"--monitoring_config_file={folder / 'monitoring.config'}",
        *_POLL_OFTEN,
    )
    try:
        server.address = server.wait_for_address()
        for _ in config.model_config_list.config[1:]:
            server.wait_for_line()
        server.rest = Rest(f"127.0.0.1:{port}")
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def rest(rest_server) -> Rest:
    """The REST API of the shared server."""
    return rest_server.rest


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A folder with the keys and certificates of an authority, a server and a client, and of a stranger."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates, and it is not on this machine")
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def mutual_tls_address(certificates, toy_path, tmp_path_factory):
    """The address of a server that asks its clients for certificates."""
    folder = tmp_path_factory.mktemp("tls")
    authority = (certificates / "authority.crt").read_text()
    path = write_ssl_config(folder / "ssl.config", certificates, custom_ca=authority, client_verify=True)
    server = Server(toy_path, "toy", folder / "log", f"--ssl_config_file={path}")
    try:
        yield server.wait_for_address()
    finally:
        server.close()


@pytest.fixture(scope="module")
def channel(config_server):
    """To the server of a model config file, where a module has no channel of its own."""
    with grpc.insecure_channel(config_server.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def predictions(channel):
    """The stock stub on that channel."""
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)
