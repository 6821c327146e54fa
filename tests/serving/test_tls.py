"""TLS and mutual TLS from an SSLConfig file, with certificates made on the spot."""

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from tests.server_process import Server
from tests.serving.asking import TIMEOUT, predict_request, refusal
from tests.serving.tls import write_ssl_config

REQUEST = predict_request("name: 'toy' signature_name: 'scale'", x=np.float32([[1, 2]]))


def credentials(certificates, name=None):
    pair = [(certificates / f"{name}.{kind}").read_bytes() if name else None for kind in ("key", "crt")]
    return grpc.ssl_channel_credentials((certificates / "authority.crt").read_bytes(), *pair)


def test_a_client_with_a_signed_certificate_is_answered(mutual_tls_address, certificates):
    with grpc.secure_channel(mutual_tls_address, credentials(certificates, "client")) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert stub.Predict(REQUEST, timeout=TIMEOUT).outputs["y"].float_val == [2, 4]


@pytest.mark.parametrize("name", [None, "stranger"])
def test_a_client_without_one_is_not(mutual_tls_address, certificates, name):
    with grpc.secure_channel(mutual_tls_address, credentials(certificates, name)) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert refusal(stub.Predict, REQUEST)[0] == grpc.StatusCode.UNAVAILABLE


def test_a_client_that_does_not_encrypt_is_not_answered(mutual_tls_address):
    with grpc.insecure_channel(mutual_tls_address) as channel:
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
