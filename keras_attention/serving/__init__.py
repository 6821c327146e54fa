"""From a Keras model to a served answer: export, verify, server, client.

Each name is imported when it is first used: a client needs no Keras, and a verification no gRPC.
"""

import importlib

_HOMES = {
    "AsyncClient": "client",
    "Client": "client",
    "ExportError": "export_checks",
    "ServingError": "errors",
    "ServingFunction": "exporter",
    "Tls": "client",
    "VerificationError": "verification",
    "VerificationReport": "verification",
    "export": "exporter",
    "verify": "verification",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
