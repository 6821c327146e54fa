"""The `keras-attention` command: serve a SavedModel, or verify one."""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from keras_attention.serving.config import ServerConfig


@dataclass(frozen=True)
class VerifyConfig:
    """What to verify.

    Attributes:
        path: A version's folder, or a model's folder, of which the newest version is taken.
    """

    path: tyro.conf.Positional[Path]


_Verb = (
    Annotated[
        ServerConfig,
        tyro.conf.subcommand(
            "serve", description="Serve SavedModels over gRPC and REST, with TensorFlow Serving's protocol and flags."
        ),
    ]
    | Annotated[
        VerifyConfig,
        tyro.conf.subcommand(
            "verify",
            description="Load an exported model in a fresh process, as TensorFlow Serving does, run the requests that "
            "were recorded with it, and compare the answers.",
        ),
    ]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: the command line without the program's name; None for this process's own.

    Returns:
        The exit code: 0 if all is well, 1 if the verb failed with a message on stderr. A command line that makes no
        sense exits with 2.
    """
    config = tyro.cli(
        _Verb,
        prog="keras-attention",
        description="Serve and verify SavedModels that take text and give answers.",
        args=_plain_switches(sys.argv[1:] if arguments is None else arguments),
        use_underscores=True,
    )
    return _serve(config) if isinstance(config, ServerConfig) else _verify(config)


def _plain_switches(arguments: Sequence[str]) -> list[str]:
    """Turns `--enable_batching=true`, as `tensorflow_model_server` takes its switches, into `--enable_batching`."""
    switches = {field.name for field in dataclasses.fields(ServerConfig) if field.type is bool}
    plain = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        if name in switches and value.lower() in ("true", "1", "false", "0"):
            argument = f"--{'' if value.lower() in ('true', '1') else 'no-'}{name}"
        plain.append(argument)
    return plain


def _serve(config: ServerConfig) -> int:
    from keras_attention.serving.errors import StartupError
    from keras_attention.serving.server import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # TensorFlow announces at every load that its session loader is deprecated; it is the one TensorFlow Serving uses.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        serve(config)
    except StartupError as error:
        return _fail(error)
    return 0


def _verify(config: VerifyConfig) -> int:
    from keras_attention.serving import VerificationError, verify

    try:
        report = verify(config.path)
    except VerificationError as error:
        return _fail(error)
    print(f"{report.path}: every record gives its recorded answer ({report.seconds:.1f} s)")
    for name, records in [*sorted(report.signatures.items()), ("records in all", report.records)]:
        print(f"  {name:<30} {records:>6}")
    return 0


def _fail(error: Exception) -> int:
    print(f"keras-attention: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
