"""Training: the catalogue is read, its questions embedded, and the threshold found."""

import dataclasses
import hashlib
import json
import logging
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from applications.chatbot import run
from applications.chatbot.calibration import calibrate
from applications.chatbot.data import PUBLIC, merge, read_entries
from applications.chatbot.model import embed
from keras_attention import fetch
from keras_attention.pretrained import load_bert

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What the bot knows and how sure it must be.

    Attributes:
        data: A CSV file (question,answer[,intent]), a JSON Lines file with these keys, a folder of YAML files as
            chatterbot-corpus has them, or chatterbot-corpus itself.
        language: The language, where the data is a chatterbot-corpus folder.
        encoder: A folder with a BERT-family encoder (config.json, model.safetensors, vocab.txt), or all-MiniLM-L6-v2.
        output: The run folder that is written.
        fallback: What the bot says when it does not know.
        false_answer_rate: How often the bot may give another question's answer to a question that is missing from the
            catalogue, measured by leaving each question out. Lower means surer and more often silent.
        threshold: The score from which on a question is answered, instead of finding it by false_answer_rate.
        alternatives: How many further questions each answer offers.
        batch_size: How many questions are embedded at a time.
    """

    data: str = PUBLIC
    language: str = "english"
    encoder: str = "all-MiniLM-L6-v2"
    output: Path = Path("runs/chatbot")
    fallback: str = "I am not sure about that. Could you put it in other words?"
    false_answer_rate: float = 0.3
    threshold: float | None = None
    alternatives: int = 3
    batch_size: int = 32

    def __post_init__(self):
        if not 0 <= self.false_answer_rate <= 1:
            raise ValueError(f"false_answer_rate must be from 0 to 1. Received: {self.false_answer_rate}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be from 0 to 1. Received: {self.threshold}")
        if self.alternatives < 0 or self.batch_size < 1:
            raise ValueError(
                "alternatives must be at least 0 and batch_size at least 1. "
                f"Received: {self.alternatives}, {self.batch_size}"
            )


def train(config):
    """Builds a bot and writes its run folder.

    Args:
        config: `TrainConfig`.

    Returns:
        `run.Run`.

    Raises:
        DataError, CheckpointError, RunError, FetchError: for what was given, before anything is written.
    """
    start = time.perf_counter()
    run.check_output(config.output)
    read = read_entries(config.data, config.language)
    entries = merge(read)
    logger.info("%d question-answer pairs, %d different questions", len(read), len(entries))
    is_folder = Path(config.encoder).expanduser().is_dir() or config.encoder not in fetch.PACKAGES
    encoder, tokenizer = load_bert(config.encoder if is_folder else fetch.fetch(config.encoder))
    if tokenizer is None:
        raise run.RunError(f"the encoder {config.encoder} has no vocab.txt, and the bot needs its tokenizer.")
    embeddings = embed_all(encoder, tokenizer, [entry.question for entry in entries], config.batch_size)
    threshold = config.threshold
    if threshold is None:
        threshold = calibrate(embeddings, [entry.answer for entry in entries], config.false_answer_rate)
    content = json.dumps([dataclasses.astuple(entry) for entry in entries], ensure_ascii=False)
    made = run.Run(
        encoder,
        tokenizer,
        entries,
        embeddings,
        {
            "threshold": threshold,
            "fallback": config.fallback,
            "alternatives": config.alternatives,
            "false_answer_rate": config.false_answer_rate if config.threshold is None else None,
            "data": config.data,
            "language": config.language,
            "data_sha256": hashlib.sha256(content.encode()).hexdigest(),
            "pairs": len(read),
            "questions": len(entries),
            "encoder": config.encoder,
            "seconds": round(time.perf_counter() - start, 1),
        },
    )
    made.save(config.output)
    logger.info("threshold %.3f; run written to %s", threshold, config.output)
    return made


def embed_all(encoder, tokenizer, texts, batch_size=32):
    """Embeds many texts, those of like length together, and shows the progress.

    Args:
        encoder: `TextEncoder`.
        tokenizer: `WordPieceTokenizer`.
        texts: list of str, M.
        batch_size: int.

    Returns:
        float32 [M, D].
    """
    run_batch = tf.function(
        lambda text: embed(encoder, tokenizer, text),
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )
    embeddings = np.empty((len(texts), encoder.hidden_dim), "float32")
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    progress = keras.utils.Progbar(len(texts), unit_name="question")
    for start in range(0, len(texts), batch_size):
        batch = by_length[start : start + batch_size]
        embeddings[batch] = run_batch(tf.constant([texts[i] for i in batch]))
        progress.add(len(batch))
    return embeddings
