"""Attention layers for Keras 3, and the way from them to a served answer.

Importing this package is cheap: a sub-package is loaded when it is first used, so that a program that needs only the
client does not pay for TensorFlow, and a program on JAX or PyTorch never loads it.
"""

import importlib

__version__ = "0.1.0.dev0"
__all__ = [
    "biases",
    "conformance",
    "layers",
    "masks",
    "models",
    "ops",
    "pretrained",
    "serving",
    "text",
    "training",
    "visualization",
]


def __getattr__(name: str):
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
