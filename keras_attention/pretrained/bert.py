"""BERT-family encoders, read from the folders in which they are published and written back to such folders."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save_file

from keras_attention.models import TextEncoder
from keras_attention.pretrained.bert_layouts import LAYOUTS, bert_config, encoder_arguments, places, plain_name

logger = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A folder that cannot be read as a checkpoint; the message says which file and why."""


def load_bert(folder):
    """Reads a published BERT-family encoder and its tokenizer.

    Reads `config.json`, `model.safetensors` and, where there is one, `vocab.txt`, in the layouts of bert, roberta
    (xlm-roberta, camembert) and distilbert, with or without a task's head around the encoder. Nothing in the folder is
    executed. Tensors that an encoder has no place for (a pooler, a head) are logged by name.

    Args:
        folder: path of the folder.

    Returns:
        (`TextEncoder`, `WordPieceTokenizer` or None). The tokenizer is None, with the reason logged, where the folder
        carries none that can run. Both have the checkpoint's `sequence_length`.

    Raises:
        CheckpointError: if a file is missing or unreadable, a setting is not supported, or a tensor is missing or has
            another shape than config.json says. Nothing is half loaded.

    Example::

        encoder, tokenizer = keras_attention.pretrained.load_bert("all-MiniLM-L6-v2")
        states = encoder(tokenizer(["How do I reset my password?"]))   # [1, T, 384]

    Reference: Devlin et al. 2019, BERT, https://arxiv.org/abs/1810.04805
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"no encoder folder at {folder}: give the path of a folder with config.json and weights.")
    config_file = folder / "config.json"
    config = _read_json(config_file)
    layout = LAYOUTS.get(str(config.get("model_type")))
    if layout is None:
        raise CheckpointError(
            f"{config_file}: model_type {config.get('model_type')!r} cannot be read (read are: {', '.join(LAYOUTS)})."
        )
    try:
        arguments = encoder_arguments(layout, config)
        encoder = TextEncoder(**arguments, name="text_encoder")
    except KeyError as error:
        raise CheckpointError(f"{config_file} lacks {error.args[0]!r}.") from None
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{config_file}: {error}") from error
    encoder.build((None, None))
    _read_weights(folder / "model.safetensors", layout, encoder)
    return encoder, _read_tokenizer(folder, encoder)


def _read_json(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing.") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object. Received: {type(content).__name__}")
    return content


def _read_weights(path, layout, encoder):
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing. Weights are read from safetensors only, as other formats execute code when opened."
        )
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            stored = {plain_name(name, layout): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error

    values, problems = [], []
    for place in places(layout, encoder):
        array = stored.pop(place.name, None)
        if array is None:
            problems.append(f"{place.name} is missing")
            continue
        if layout.positions_after_pad and place.variable is encoder.embedding.position_embeddings:
            array = array[encoder.pad_id + 1 :]
        if array.shape != place.shape:
            problems.append(f"{place.name} has shape {array.shape} where config.json says {place.shape}")
            continue
        values.append((place.variable, (array.T if place.transposed else array).reshape(place.variable.shape)))
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise CheckpointError(f"{path}: {shown}.")
    for variable, value in values:
        variable.assign(value.astype("float32"))
    if stored:
        # A pooler and the table of positions are in most published folders: no news. Anything else may be a surprise.
        usual = all(name.startswith("pooler.") or name.endswith("position_ids") for name in stored)
        level = logging.INFO if usual else logging.WARNING
        logger.log(level, "%s: an encoder has no place for %s", path, ", ".join(sorted(stored)))


def _read_tokenizer(folder, encoder):
    from keras_attention.text import WordPieceTokenizer

    vocabulary_file = folder / "vocab.txt"
    if not vocabulary_file.is_file():
        logger.warning("%s carries no vocab.txt: no WordPiece tokenizer was made, texts must come as ids.", folder)
        return None
    options = {}
    settings_file = folder / "tokenizer_config.json"
    if settings_file.is_file():
        settings = _read_json(settings_file)
        options = {"lowercase": settings.get("do_lower_case", True), "strip_accents": settings.get("strip_accents")}
    try:
        tokenizer = WordPieceTokenizer(vocabulary_file, sequence_length=encoder.sequence_length, **options)
    except ValueError as error:
        logger.warning("%s: no tokenizer was made: %s", vocabulary_file, error)
        return None
    if tokenizer.pad_id != encoder.pad_id:
        raise CheckpointError(
            f"{vocabulary_file} has {tokenizer.pad_token!r} in line {tokenizer.pad_id + 1}, and config.json says "
            f"pad_token_id {encoder.pad_id}: the encoder would take padding for words."
        )
    if tokenizer.vocabulary_size > encoder.vocabulary_size:
        raise CheckpointError(
            f"{vocabulary_file} has {tokenizer.vocabulary_size} tokens, and the encoder embeds only "
            f"{encoder.vocabulary_size}."
        )
    return tokenizer


def save_bert(folder, encoder, tokenizer=None):
    """Writes an encoder, and its tokenizer, as a folder in the bert layout, which every reader of BERT folders reads.

    An encoder that came from a roberta or distilbert folder is written in the bert layout too, and gives the same
    states. Files that stand in the folder are replaced one by one, each of them whole.

    Args:
        folder: path, made if it does not exist.
        encoder: a built `TextEncoder` with `norm="post"`.
        tokenizer: `WordPieceTokenizer` or None.

    Raises:
        ValueError: for an encoder that the layout cannot say.
    """
    if encoder.norm != "post":
        raise ValueError(f"a BERT folder holds post-norm encoders only. Received: norm={encoder.norm!r}")
    if not encoder.built:
        raise ValueError("the encoder has no weights yet: call it, or `encoder.build((None, None))`, first.")
    config = bert_config(encoder)
    layout = LAYOUTS["bert"]
    tensors = {}
    for place in places(layout, encoder):
        array = np.asarray(place.variable.numpy(), "float32")
        array = array.reshape(place.shape[::-1]).T if place.transposed else array.reshape(place.shape)
        tensors[place.name] = np.ascontiguousarray(array)
    if not encoder.num_segments:
        name = f"{layout.tensors['segment_embedding']}.weight"
        tensors[name] = np.zeros((1, encoder.hidden_dim), "float32")

    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "model.safetensors", lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    _replace(folder / "config.json", lambda path: path.write_text(json.dumps(config, indent=2) + "\n"))
    if tokenizer is not None:
        settings = {"do_lower_case": tokenizer.lowercase, "strip_accents": tokenizer.strip_accents}
        _replace(folder / "vocab.txt", tokenizer.save_vocabulary)
        _replace(folder / "tokenizer_config.json", lambda path: path.write_text(json.dumps(settings, indent=2) + "\n"))


def _replace(path, write):
    """Writes a file beside its place and moves it there, so that a killed process leaves the old one whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
