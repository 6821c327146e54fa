"""A run folder: everything that training made, from which the bot is asked, evaluated and exported."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np

from applications.chatbot.data import Entry
from applications.chatbot.model import Chatbot
from keras_attention.pretrained import load_bert, save_bert

_FORMAT = 1
_FILES = {"config.json", "embeddings.npy", "entries.jsonl", "report.json", "report.png"} | {
    f"encoder/{name}" for name in ("config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt")
}
_UNFINISHED = re.compile(r"encoder/\.[\w.]+\.\d+")  # what save_bert leaves when it is killed


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
        """Writes the run beside its place and then puts it there: a run that stood there stays until then.

        A process killed on the way leaves the old run, in its place or where the next save finds it.

        Raises:
            RunError: if the folder holds something else than a run.
        """
        folder = Path(folder).resolve()
        _settle_after_killed_processes(folder)
        check_output(folder)
        beside = _beside(folder, os.getpid())
        try:
            self._write(beside)
            if folder.exists():
                folder.rename(_old(beside))
            beside.rename(folder)
        finally:
            _settle(folder, beside)

    def _write(self, folder):
        save_bert(folder / "encoder", self.encoder, self.tokenizer)
        np.save(folder / "embeddings.npy", self.embeddings)
        with (folder / "entries.jsonl").open("w", encoding="utf-8") as file:
            for entry in self.entries:
                file.write(json.dumps(dataclasses.asdict(entry), ensure_ascii=False) + "\n")
        config = {"format": _FORMAT, **self.config}
        (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _beside(folder, process):
    """Where a process writes the run before it is put in its place."""
    return folder.with_name(f".{folder.name}.{process}")


def _old(beside):
    """Where the process that writes beside keeps the run that it replaces."""
    return beside.with_name(f"{beside.name}.old")


def _settle(folder, beside):
    """Leaves one run: the old one is put back if the new one did not come, and what is left beside it is removed."""
    if _old(beside).exists() and not folder.exists():
        _old(beside).rename(folder)
    for leftover in (beside, _old(beside)):
        shutil.rmtree(leftover, ignore_errors=True)


def _settle_after_killed_processes(folder):
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.(\d{{1,9}})(\.old)?")
    leftovers = [path for path in folder.parent.glob(".*") if path.is_dir() and pattern.fullmatch(path.name)]
    for leftover in leftovers:
        process = int(pattern.fullmatch(leftover.name)[1])
        # A number may have been given again, in a container even the same one: this process has left nothing yet.
        if not _strangers(leftover) and (process == os.getpid() or not _is_running(process)):
            _settle(folder, _beside(folder, process))


def _is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # someone else's
    return True


def _strangers(folder):
    """The files in a folder that neither training nor evaluation writes."""
    files = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    names = [path.relative_to(folder).as_posix() for path in files]
    return sorted(name for name in names if name not in _FILES and not _UNFINISHED.fullmatch(name))


def check_output(folder):
    """Refuses a place for a run where something stands that is not a run, or not only a run: it would be replaced.

    Raises:
        RunError: if the folder holds something else, with its name.
    """
    folder = Path(folder).resolve()
    if Path.cwd().is_relative_to(folder):
        raise RunError(f"{folder} holds the working directory and cannot be replaced: give another output folder.")
    if not folder.exists():
        return
    if folder.is_file() or (not (folder / "entries.jsonl").is_file() and any(folder.iterdir())):
        raise RunError(f"{folder} exists and is not a run of the chatbot: give another output folder.")
    if strangers := _strangers(folder):
        more = f" and {len(strangers) - 5} more" if len(strangers) > 5 else ""
        raise RunError(
            f"{folder} holds files that are not the run's and would be lost: {', '.join(strangers[:5])}{more}. "
            "Move them, or give another output folder."
        )


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
    config = _read(folder / "config.json", lambda path: json.loads(path.read_text("utf-8")))
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise RunError(f"{folder / 'config.json'} was not written by this version of this program: train again.")
    for name, kinds in {"threshold": (int, float), "fallback": str, "alternatives": int}.items():
        if not isinstance(config.get(name), kinds):
            raise RunError(f"{folder / 'config.json'} is damaged ({name} is {config.get(name)!r}): train again.")
    entries = _read(folder / "entries.jsonl", _read_entries)
    embeddings = _read(folder / "embeddings.npy", np.load)
    encoder, tokenizer = load_bert(folder / "encoder")
    if tokenizer is None:
        raise RunError(f"{folder / 'encoder'} has no tokenizer that can run: train again.")
    expected = (len(entries), encoder.hidden_dim)
    if not isinstance(embeddings, np.ndarray) or embeddings.dtype != "float32" or embeddings.shape != expected:
        raise RunError(f"{folder / 'embeddings.npy'} is damaged (it is no float32 array of {expected}): train again.")
    return Run(encoder, tokenizer, entries, embeddings, config)


def _read(path, read):
    try:
        return read(path)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{path.parent} is not a run of the chatbot: {path.name} is missing.") from None
    except (ValueError, TypeError, EOFError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}): train again.") from None


def _read_entries(path):
    with path.open(encoding="utf-8") as file:
        entries = [Entry(**json.loads(line)) for line in file]
    if not entries or not all(isinstance(text, str) for entry in entries for text in dataclasses.astuple(entry)):
        raise ValueError("no entries of texts")
    return entries
