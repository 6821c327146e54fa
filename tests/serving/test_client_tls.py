"""The client with TLS and mutual TLS, over gRPC and over REST."""

import ssl

import pytest

from keras_attention.serving.client import Client, Tls
from keras_attention.serving.errors import ServingError
from tests.serving.canned_rest import canned_server

STATUS = b'{"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": {}}]}'


@pytest.fixture(params=["grpc", "rest"])
def tls_address(request, certificates):
    """The address of a server that asks its clients for certificates."""
    if request.param == "grpc":
        yield request.getfixturevalue("mutual_tls_address")
        return
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "authority.crt")
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    with canned_server({"/v1/models/toy": [(200, STATUS)]}, tls=context) as server:
        yield f"https://{server.address}"


def test_a_client_with_a_signed_certificate_is_answered(tls_address, certificates):
    tls = Tls(certificates / "authority.crt", certificates / "client.key", certificates / "client.crt")
    with Client(tls_address, tls=tls) as client:
        client.wait_until_ready("toy")
        assert client.status("toy")[0].version == 1


@pytest.mark.parametrize("name", [None, "stranger"])
def test_a_client_without_one_is_not(tls_address, certificates, name):
    pair = [certificates / f"{name}.{kind}" if name else None for kind in ("key", "crt")]
    with (
        Client(tls_address, retries=0, tls=Tls(certificates / "authority.crt", *pair)) as client,
        pytest.raises(ServingError, match="UNAVAILABLE: no server answers at"),
    ):
        client.status("toy")


def test_a_server_that_a_stranger_has_signed_is_not_trusted(tls_address, certificates):
    tls = Tls(certificates / "stranger.crt", certificates / "client.key", certificates / "client.crt")
    with Client(tls_address, retries=0, tls=tls) as client, pytest.raises(ServingError, match="UNAVAILABLE"):
        client.status("toy")


def test_settings_that_make_no_sense_are_refused(certificates, tmp_path):
    with pytest.raises(ValueError, match="client_key and client_certificate go together"):
        Tls(client_key="client.key")
    with pytest.raises(ValueError, match="http does not encrypt"):
        Client("http://127.0.0.1:8501", tls=Tls())
    for scheme in ("", "https://"):
        with pytest.raises(FileNotFoundError):
            Client(f"{scheme}127.0.0.1:8501", tls=Tls(tmp_path / "missing.crt"))
