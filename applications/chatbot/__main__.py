"""The chatbot from the shell: `python -m applications.chatbot train | export | ask | evaluate | demo`."""

import functools
import logging
import operator
import os
import sys
from typing import Annotated

import tyro

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from applications.chatbot.ask import AskConfig, ask
from applications.chatbot.demo import DemoConfig, demo
from applications.chatbot.evaluate import EvaluateConfig, evaluate
from applications.chatbot.export import ExportConfig, export
from applications.chatbot.train import TrainConfig, train
from keras_attention.fetch import FetchError
from keras_attention.serving import ExportError, ServingError

_VERBS = {
    TrainConfig: ("train", "Build a bot from questions and answers.", train),
    ExportConfig: ("export", "Write the bot as a SavedModel, checked by TensorFlow's own loader.", export),
    AskConfig: ("ask", "Ask the bot, here or on a server.", ask),
    EvaluateConfig: ("evaluate", "Measure how often the bot answers and is right.", evaluate),
    DemoConfig: ("demo", "Train, export, verify, serve and ask, on public dialogues.", demo),
}


def main(arguments=None):
    """Runs a verb; returns 0, or 1 with a message on stderr. A command line that makes no sense exits with 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    verbs = functools.reduce(
        operator.or_,
        (Annotated[config, tyro.conf.subcommand(name, description=text)] for config, (name, text, _) in _VERBS.items()),
    )
    try:
        config = tyro.cli(
            verbs,
            prog="python -m applications.chatbot",
            description=sys.modules["applications.chatbot"].__doc__,
            args=arguments,
        )
        result = _VERBS[type(config)][2](config)
    except (ValueError, OSError, FetchError, ExportError, ServingError, RuntimeError) as error:
        print(f"chatbot: {error}", file=sys.stderr)
        return 1
    if isinstance(config, ExportConfig):
        print(result)
    if isinstance(config, EvaluateConfig):
        for name, value in result.items():
            print(f"{name:>14}  {'-' if value is None else value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
