"""Where the gRPC server listens and with which certificates, checked so that what is wrong is told in one line."""

import socket
import ssl
import stat
import tempfile
from pathlib import Path

import grpc

from keras_attention.serving.config_messages import SSLConfig
from keras_attention.serving.errors import StartupError
from keras_attention.serving.text_files import read_text_message


def read_ssl_config(path: Path) -> SSLConfig:
    """Reads an SSLConfig file and checks what is in it.

    Args:
        path: the file: an SSLConfig message in text format, with keys and certificates in PEM. With `client_verify`, a
            client must show a certificate that `custom_ca` has signed.

    Returns:
        The message.

    Raises:
        ServingError: if the file cannot be read or is no SSLConfig.
        StartupError: if a key or certificate is none, or they do not belong together.
    """
    config = read_text_message(path, SSLConfig())
    if config.client_verify and not config.custom_ca:
        raise StartupError(f"{path}: client_verify needs custom_ca, which says whose client certificates are good")
    _check_certificates(path, config)
    return config


def make_credentials(ssl_config: bytes | None) -> grpc.ServerCredentials | None:
    """Makes a server's credentials.

    Args:
        ssl_config: a serialized SSLConfig that has been checked; None for no encryption.

    Returns:
        The credentials, or None.
    """
    if ssl_config is None:
        return None
    config = SSLConfig.FromString(ssl_config)
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )


def _check_certificates(path: Path, config: SSLConfig) -> None:
    # gRPC takes anything and then refuses every client; Python's ssl, which reads key pairs only from files, tells.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        with tempfile.NamedTemporaryFile("w") as key, tempfile.NamedTemporaryFile("w") as certificate:
            key.write(config.server_key)
            certificate.write(config.server_cert)
            key.flush()
            certificate.flush()
            context.load_cert_chain(certificate.name, key.name, password="")
    except (ssl.SSLError, OSError) as error:
        raise StartupError(f"{path}: server_key and server_cert are no key and its certificate: {error}") from None
    if config.custom_ca:
        try:
            context.load_verify_locations(cadata=config.custom_ca)
        except (ssl.SSLError, ValueError) as error:
            raise StartupError(f"{path}: custom_ca is no certificate: {error}") from None


def listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Adds an address to a server.

    Args:
        server: a server that has not started.
        address: host and port, or ``unix:`` and a path.
        credentials: None for no encryption.

    Returns:
        The port.

    Raises:
        StartupError: if the address cannot be had.
    """
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise StartupError(f"cannot listen on {address}: {error}") from None


def bind(host: str, port: int, shared: bool = False) -> socket.socket:
    """Takes a port, as gRPC by default does not: a port that is another server's counts as taken.

    Args:
        host: the address to listen on.
        port: the port; 0 for a free one.
        shared: whether other sockets that are bound so, those of the same server, may have it too.

    Returns:
        A socket that is bound and does not listen.

    Raises:
        StartupError: if the port cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise StartupError(f"cannot listen on {join_address(host, port)}: {error.strerror}") from None
    return listener


def reserve(host: str, port: int) -> socket.socket:
    """Takes a port for several processes of one server.

    Args:
        host: the address to listen on.
        port: the port; 0 for a free one.

    Returns:
        A bound socket to be kept: as long as it is open, nobody else gets the port, and those that `bind` it as shared
        do.

    Raises:
        StartupError: if the port cannot be had.
    """
    with bind(host, port):
        pass  # it is free: a shared one would not tell
    return bind(host, port, shared=True)


def require_free_socket(path: Path) -> None:
    """Checks that a UNIX socket can be made: gRPC would take the path away from a server that listens there.

    Raises:
        StartupError: if its folder is missing, or something else or another server is there.
    """
    if not path.parent.is_dir():
        raise StartupError(f"cannot listen on unix:{path}: there is no folder {path.parent}")
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise StartupError(f"cannot listen on unix:{path}: a file is in its place")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return  # left behind by a server that has gone
    raise StartupError(f"cannot listen on unix:{path}: another server listens there")


def join_address(host: str, port: int) -> str:
    """Host and port in one, also for IPv6.

    Example:
        >>> join_address("::1", 8500)
        '[::1]:8500'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
