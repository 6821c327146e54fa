"""A run folder: everything that training made, from which the bot is asked, evaluated and exported."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np

from applications.chatbot.data import Entry
from applications.chatbot.model import Chatbot
from keras_attention.pretrained import load_bert, save_bert

_FORMAT = 1


class RunError(ValueError):
    """A folder that is not a run; the message says what is missing."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What training made.

    Attributes:
        encoder: `TextEncoder`.
        tokenizer: `WordPieceTokenizer`.
        entries: list of `Entry`, the catalogue.
        embeddings: float32 [M, D], of the catalogue's questions.
        config: dict, the settings and what they led to: threshold, fallback, alternatives, where the data came from.
    """

    encoder: object
    tokenizer: object
    entries: list
    embeddings: np.ndarray
    config: dict

    def chatbot(self):
        """The bot, ready to be called with texts."""
        return Chatbot(
            self.encoder,
            self.tokenizer,
            [entry.question for entry in self.entries],
            [entry.answer for entry in self.entries],
            self.embeddings,
            threshold=self.config["threshold"],
            fallback=self.config["fallback"],
            alternatives=self.config["alternatives"],
        )

    def save(self, folder):
        """Writes the run beside its place and then puts it there: a run that stood there stays until then."""
        folder = Path(folder)
        beside = folder.with_name(f".{folder.name}.{os.getpid()}")
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        try:
            save_bert(beside / "encoder", self.encoder, self.tokenizer)
            np.save(beside / "embeddings.npy", self.embeddings)
            with (beside / "entries.jsonl").open("w", encoding="utf-8") as file:
                for entry in self.entries:
                    file.write(json.dumps(dataclasses.asdict(entry), ensure_ascii=False) + "\n")
            config = {"format": _FORMAT, **self.config}
            (beside / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
            if folder.exists():
                folder.rename(old)
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def check_output(folder):
    """Refuses a place for a run where something stands that is not a run.

    Raises:
        RunError: if the folder holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / "entries.jsonl").is_file() and (folder.is_file() or any(folder.iterdir())):
        raise RunError(f"{folder} exists and is not a run of the chatbot: give another output folder.")


def load(folder):
    """Reads a run.

    Args:
        folder: path of the run folder.

    Returns:
        `Run`.

    Raises:
        RunError: if it is no run.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        with (folder / "entries.jsonl").open(encoding="utf-8") as file:
            entries = [Entry(**json.loads(line)) for line in file]
        embeddings = np.load(folder / "embeddings.npy")
    except FileNotFoundError as error:
        raise RunError(f"{folder} is not a run of the chatbot: {Path(error.filename).name} is missing.") from None
    if config.get("format") != _FORMAT:
        raise RunError(f"{folder} was written by another version of this program: train it again.")
    encoder, tokenizer = load_bert(folder / "encoder")
    return Run(encoder, tokenizer, entries, embeddings, config)
