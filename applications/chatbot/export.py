"""Export: a run becomes a SavedModel that takes a text and gives an answer."""

import itertools

import numpy as np
import tensorflow as tf

from applications.chatbot import run
from applications.chatbot.model import embed
from keras_attention import serving

# What the export is checked with beside the catalogue's own questions: nothing, not UTF-8, very long.
_BLANK_TEXTS = [b"", b"   "]
_HARD_TEXTS = [b"caf\xe9 \xff\xfe", b"what is this about? " * 5000]
_LEAST_GAP = 1e-4  # between scores: what is nearer together, the noise of float32 may put in another order


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

    def clear(texts, embeddings):
        rows = is_clear(embeddings @ made.embeddings.T, bot.num_candidates, made.config["threshold"])
        return list(itertools.compress(texts, rows))

    some = slice(None, None, max(1, len(made.entries) // 64))
    questions = clear([entry.question for entry in made.entries[some]], made.embeddings[some])[:8]
    hard = clear(_HARD_TEXTS, embed(made.encoder, made.tokenizer(tf.constant(_HARD_TEXTS))).numpy())
    batches = [questions, *([text] for text in _BLANK_TEXTS + hard)]
    return serving.export(
        config.output,
        signatures={"serving_default": serving.ServingFunction(bot, {"text": tf.TensorSpec([None], tf.string)})},
        resources=[bot],
        examples={"serving_default": [{"text": batch} for batch in batches if batch]},
        metadata={"application": "chatbot", **made.config},
    )


def is_clear(similarities, num_candidates, threshold):
    """Which texts get the same outputs whatever the noise of float32.

    Args:
        similarities: float32 [B, M], of each text with every question of the catalogue.
        num_candidates: int, how many of these the outputs show.
        threshold: float.

    Returns:
        bool [B]: whether the best scores lie apart from one another, from the next one and from the threshold.
    """
    scores = -np.sort(-similarities, axis=1)[:, : num_candidates + 1]
    apart = np.all(scores[:, :-1] - scores[:, 1:] > _LEAST_GAP, axis=1)
    return apart & (np.abs(scores[:, 0] - threshold) > _LEAST_GAP)
