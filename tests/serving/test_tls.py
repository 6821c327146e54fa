"""TLS and mutual TLS from an SSLConfig file, with certificates made on the spot."""

import shutil
import subprocess

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import prediction_service_pb2_grpc

from keras_attention.serving.config_messages import SSLConfig
from tests.server_process import Server
from tests.serving.asking import TIMEOUT, predict_request, refusal

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")

REQUEST = predict_request("name: 'toy' signature_name: 'scale'", x=np.float32([[1, 2]]))


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A folder with the keys and certificates of an authority, a server and a client, and of a stranger."""
    folder = tmp_path_factory.mktemp("certificates")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("authority", "stranger"):
        subject = ("-subj", f"/CN={name}", "-days", "2")
        openssl(folder, "req", "-x509", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.crt", *subject)
    for name in ("server", "client"):
        (folder / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1\n")
        openssl(folder, "req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed_by = ("-CA", "authority.crt", "-CAkey", "authority.key", "-CAcreateserial", "-days", "2")
        openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *signed_by, "-extfile", f"{name}.ext"
        )
    return folder


def write_ssl_config(path, certificates, key="server.key", **fields):
    config = SSLConfig(
        server_key=(certificates / key).read_text(), server_cert=(certificates / "server.crt").read_text(), **fields
    )
    path.write_text(text_format.MessageToString(config))
    return path


@pytest.fixture(scope="module")
def address(certificates, toy_path, tmp_path_factory):
    """The address of a server that asks its clients for certificates."""
    folder = tmp_path_factory.mktemp("tls")
    authority = (certificates / "authority.crt").read_text()
    path = write_ssl_config(folder / "ssl.config", certificates, custom_ca=authority, client_verify=True)
    server = Server(toy_path, "toy", folder / "log", f"--ssl_config_file={path}")
    try:
        yield server.wait_for_address()
    finally:
        server.close()


def credentials(certificates, name=None):
    pair = [(certificates / f"{name}.{kind}").read_bytes() if name else None for kind in ("key", "crt")]
    return grpc.ssl_channel_credentials((certificates / "authority.crt").read_bytes(), *pair)


def test_a_client_with_a_signed_certificate_is_answered(address, certificates):
    with grpc.secure_channel(address, credentials(certificates, "client")) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert stub.Predict(REQUEST, timeout=TIMEOUT).outputs["y"].float_val == [2, 4]


@pytest.mark.parametrize("name", [None, "stranger"])
def test_a_client_without_one_is_not(address, certificates, name):
    with grpc.secure_channel(address, credentials(certificates, name)) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert refusal(stub.Predict, REQUEST)[0] == grpc.StatusCode.UNAVAILABLE


def test_a_client_that_does_not_encrypt_is_not_answered(address):
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert refusal(stub.Predict, REQUEST)[0] == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"key": "client.key"}, "server_key and server_cert are no key and its certificate"),
        ({"key": "authority.crt"}, "server_key and server_cert are no key and its certificate"),
        ({"client_verify": True}, "client_verify needs custom_ca"),
        ({"client_verify": True, "custom_ca": "nonsense"}, "custom_ca is no certificate"),
    ],
)
def test_certificates_that_make_no_sense_are_one_line_and_exit_code_1(
    certificates, toy_path, tmp_path, fields, message
):
    path = write_ssl_config(tmp_path / "ssl.config", certificates, **fields)
    server = Server(toy_path, "toy", tmp_path / "log", f"--ssl_config_file={path}")
    try:
        assert server.process.wait(TIMEOUT) == 1
    finally:
        server.close()
    (line,) = server.log.read_text().splitlines()
    assert line.startswith(f"keras-attention: {path}: ")
    assert message in line
