"""The chatbot from the shell: `python -m applications.chatbot mine | train | export | ask | evaluate | demo`."""

import functools
import importlib
import logging
import operator
import sys
from typing import Annotated

import tyro

from applications.chatbot.config import AskConfig, DemoConfig, EvaluateConfig, ExportConfig, MineConfig, TrainConfig
from keras_attention.serving.quiet_tensorflow import import_tensorflow_quietly

# A verb is the function of its name in the module of its name, imported when the verb is chosen.
_VERBS = {
    MineConfig: ("mine", "Turn logs of conversations into questions and answers to review."),
    TrainConfig: ("train", "Build a bot from questions and answers."),
    ExportConfig: ("export", "Write the bot as a SavedModel, checked by TensorFlow's own loader."),
    AskConfig: ("ask", "Ask the bot, here or on a server."),
    EvaluateConfig: ("evaluate", "Measure how often the bot answers and is right."),
    DemoConfig: ("demo", "Train, export, verify, serve and ask, on public dialogues."),
}


def main(arguments=None):
    """Runs a verb; returns 0, or 1 with a message on stderr. A command line that makes no sense exits with 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    verbs = functools.reduce(
        operator.or_,
        (Annotated[config, tyro.conf.subcommand(name, description=text)] for config, (name, text) in _VERBS.items()),
    )
    try:
        config = tyro.cli(
            verbs,
            prog="python -m applications.chatbot",
            description=sys.modules["applications.chatbot"].__doc__,
            args=arguments,
        )
        result = _run(config)
    except _expected_errors() as error:
        print(f"chatbot: {error}", file=sys.stderr)
        return 1
    if isinstance(config, (ExportConfig, MineConfig)):
        print(result)
    if isinstance(config, EvaluateConfig):
        for name, value in result.items():
            print(f"{name:>14}  {'-' if value is None else value}")
    return 0


def _run(config):
    if not (isinstance(config, MineConfig) or (isinstance(config, AskConfig) and config.server)):  # need no TensorFlow
        import_tensorflow_quietly()
    verb, _ = _VERBS[type(config)]
    return getattr(importlib.import_module(f"applications.chatbot.{verb}"), verb)(config)


def _expected_errors():
    """Errors whose message says all. TensorFlow's own are among them once a verb has imported it, and not before."""
    tensorflow = sys.modules.get("tensorflow")
    return (ValueError, OSError, RuntimeError, *([tensorflow.errors.OpError] if tensorflow else []))


if __name__ == "__main__":
    sys.exit(main())
