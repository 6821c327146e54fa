"""Keys, certificates and SSLConfig files for the tests of TLS, made on the spot by openssl."""

import subprocess

from google.protobuf import text_format

from keras_attention.serving.config_messages import SSLConfig


def _openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


def make_certificates(folder):
    """Keys and certificates of an authority, a server and a client that it has signed, and of a stranger."""
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("authority", "stranger"):
        subject = ("-subj", f"/CN={name}", "-days", "2")
        _openssl(folder, "req", "-x509", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.crt", *subject)
    for name in ("server", "client"):
        (folder / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1\n")
        _openssl(folder, "req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed_by = ("-CA", "authority.crt", "-CAkey", "authority.key", "-CAcreateserial", "-days", "2")
        _openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *signed_by, "-extfile", f"{name}.ext"
        )


def write_ssl_config(path, certificates, key="server.key", **fields):
    config = SSLConfig(
        server_key=(certificates / key).read_text(), server_cert=(certificates / "server.crt").read_text(), **fields
    )
    path.write_text(text_format.MessageToString(config))
    return path
