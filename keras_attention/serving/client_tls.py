"""How a client encrypts: with which authorities, and with a certificate of its own if the server asks for one."""

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True)
class Tls:
    """Encryption, as `Client(..., tls=Tls(...))` takes it; all files in PEM.

    Attributes:
        root_certificates: the authorities that may have signed the server's certificate; None for those that are
            trusted by default.
        client_key: the client's private key, for mutual TLS.
        client_certificate: the client's certificate, for mutual TLS.

    Raises:
        ValueError: if there is a key without a certificate, or a certificate without a key.

    Example:
        >>> Client("models.example.com:8500", tls=Tls("authority.crt", "client.key", "client.crt"))
    """

    root_certificates: str | os.PathLike | None = None
    client_key: str | os.PathLike | None = None
    client_certificate: str | os.PathLike | None = None

    def __post_init__(self):
        if (self.client_key is None) != (self.client_certificate is None):
            raise ValueError("client_key and client_certificate go together: one of them is missing")


def channel_credentials(tls: Tls) -> grpc.ChannelCredentials:
    """Reads the files for gRPC.

    Args:
        tls: what to read.

    Returns:
        The credentials.

    Raises:
        OSError: if a file cannot be read.
    """
    files = (tls.root_certificates, tls.client_key, tls.client_certificate)
    return grpc.ssl_channel_credentials(*(None if file is None else Path(file).read_bytes() for file in files))


def ssl_context(tls: Tls) -> ssl.SSLContext:
    """Reads the files for HTTP.

    Args:
        tls: what to read.

    Returns:
        The context.

    Raises:
        OSError: if a file cannot be read, or holds no key or certificate (`ssl.SSLError`).
    """
    context = ssl.create_default_context(cafile=tls.root_certificates)
    if tls.client_certificate is not None:
        context.load_cert_chain(tls.client_certificate, tls.client_key)
    return context
