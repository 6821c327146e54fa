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
from applications.chatbot.data import merge, read_entries
from applications.chatbot.model import embed
from keras_attention import fetch
from keras_attention.pretrained import load_bert

logger = logging.getLogger(__name__)


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
    different = merge(read)
    logger.info("%d question-answer pairs, %d different questions", len(read), len(different))
    is_folder = Path(config.encoder).expanduser().is_dir() or config.encoder not in fetch.PACKAGES
    encoder, tokenizer = load_bert(config.encoder if is_folder else fetch.fetch(config.encoder))
    if tokenizer is None:
        raise run.RunError(f"the encoder {config.encoder} has no tokenizer that can run, and the bot needs one.")
    entries = merge_alike(different, tokenizer)
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


def merge_alike(entries, tokenizer):
    """Merges the questions that the encoder cannot tell apart: those with the same token ids.

    Args:
        entries: list of `Entry`.
        tokenizer: `WordPieceTokenizer`.

    Returns:
        list of `Entry`.
    """
    questions = [entry.question for entry in entries]
    ids = {}
    for start in range(0, len(questions), 1024):
        batch = questions[start : start + 1024]
        rows = tokenizer(batch).numpy()
        ids |= {question: tuple(row[row != tokenizer.pad_id]) for question, row in zip(batch, rows, strict=True)}
    merged = merge(entries, ids.get)
    if len(merged) < len(entries):
        logger.warning("merged %d questions with others of the same tokens", len(entries) - len(merged))
    return merged


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
        lambda text: embed(encoder, tokenizer(text)),
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
