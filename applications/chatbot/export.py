"""Export: a run becomes a SavedModel that takes a text and gives an answer."""

import dataclasses
from pathlib import Path

import tensorflow as tf

from applications.chatbot import run
from keras_attention import serving

# What the export is checked with beside the catalogue's own questions: nothing, not UTF-8, very long.
_HARD_TEXTS = [b"", b"   ", b"caf\xe9 \xff\xfe", b"what is this about? " * 5000]


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Where from and where to.

    Attributes:
        run: The run folder that train wrote.
        output: The servable's folder; its next version is written.
    """

    run: Path = Path("runs/chatbot")
    output: Path = Path("saved_models/chatbot")


def export(config, made=None):
    """Exports a run.

    Args:
        config: `ExportConfig`.
        made: `run.Run`; read from `config.run` if None.

    Returns:
        `pathlib.Path` of the version's folder.

    Raises:
        RunError: if there is no run.
        ExportError: if the check by TensorFlow's loader fails.
    """
    made = run.load(config.run) if made is None else made
    bot = made.chatbot()
    texts = [entry.question for entry in made.entries[:: max(1, len(made.entries) // 8)]][:8]
    return serving.export(
        config.output,
        signatures={"serving_default": serving.ServingFunction(bot, {"text": tf.TensorSpec([None], tf.string)})},
        resources=[bot],
        examples={"serving_default": [{"text": texts}, *({"text": [text]} for text in _HARD_TEXTS)]},
        metadata={"application": "chatbot", **made.config},
    )
