"""Questions with their answers, read from the files that people have."""

import collections
import csv
import dataclasses
import io
import itertools
import json
import logging
from pathlib import Path

import yaml

from keras_attention import fetch

logger = logging.getLogger(__name__)

PUBLIC = "chatterbot-corpus"
_SHOWN_PROBLEMS = 10


class DataError(ValueError):
    """Data that cannot be used; the message names the file and the lines."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One question of the catalogue.

    Attributes:
        question: as a user would ask it.
        answer: what the bot says.
        intent: what the question is about, or "".
    """

    question: str
    answer: str
    intent: str = ""


def read_entries(source, language="english", answers_required=True):
    """Reads questions and answers.

    Args:
        source: a CSV file with a header (`question,answer[,intent]`, separated by comma, semicolon or tab), a JSON
            Lines file with the same keys (.jsonl), a folder of chatterbot-corpus's YAML files, or "chatterbot-corpus"
            for the public one.
        language: the language's folder in a chatterbot-corpus folder.
        answers_required: whether a row without an answer is an error; in a test file it is a question that the bot
            should not answer.

    Returns:
        list of `Entry`, at least one.

    Raises:
        DataError: with the file and the lines.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        entries = _read_corpus(path, language)
    elif path.is_file():
        read = _read_json_lines if path.suffix.lower() in (".jsonl", ".ndjson", ".json") else _read_csv
        entries = _check_rows(path, read(path, _read_text(path)), answers_required)
    elif source == PUBLIC:
        entries = _read_corpus(fetch.fetch(PUBLIC), language)
    else:
        raise DataError(f"no file or folder {str(source)!r}; the public data set is {PUBLIC!r}.")
    if not entries:
        raise DataError(f"{path} holds no questions.")
    return entries


def merge(entries, key=lambda question: " ".join(question.casefold().split())):
    """One entry a question: of several answers to it the most frequent, the first of equals.

    Args:
        entries: list of `Entry`.
        key: a function of a question; questions with the same key are the same. Without it, those that differ in case
            and spaces only.

    Returns:
        list of `Entry`, in the order in which the questions first came.
    """
    groups = {}
    for entry in entries:
        groups.setdefault(key(entry.question), []).append(entry)
    merged = []
    for group in groups.values():
        answer, _ = collections.Counter(entry.answer for entry in group).most_common(1)[0]
        merged.append(next(entry for entry in group if entry.answer == answer))
    return merged


def _read_text(path):
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: not UTF-8 (byte 0x{content[error.start]:02x}). Save the file as UTF-8."
        ) from None
    if not text.strip():
        raise DataError(f"{path} is empty.")
    return text


def _read_csv(path, text):
    lines = io.StringIO(text, newline="")  # unlike str.splitlines, it leaves U+2028 and its like inside a field
    delimiter = max(",;\t", key=lines.readline().count)
    lines.seek(0)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        names = [name.strip().lower() for name in next(reader)]
        for column in ("question", "answer"):
            if column not in names:
                raise DataError(
                    f"{path}, line 1: no column {column!r}. The header must name question and answer, and may name "
                    f"intent. Received: {', '.join(names)}"
                )
        last = reader.line_num
        for row in reader:
            line, last = last + 1, reader.line_num
            if any(cell.strip() for cell in row):
                problem = f"{len(row)} fields where the header has {len(names)}" if len(row) != len(names) else None
                yield line, dict(zip(names, row, strict=False)), problem
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}.") from None


def _read_json_lines(path, text):
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            yield line, {}, f"not JSON ({error})"
            continue
        if not isinstance(row, dict):
            yield line, {}, f"not a JSON object ({type(row).__name__})"
            continue
        strange = [key for key in ("question", "answer", "intent") if not _is_text(row.get(key) or "")]
        yield line, row, f"{strange[0]} is not a string of Unicode characters" if strange else None


def _is_text(value):
    """Whether a value is a str that UTF-8 can say: JSON may escape half a character, such as "\\ud800"."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _check_rows(path, rows, answers_required):
    entries, problems = [], []
    for line, row, problem in rows:
        question, answer, intent = (
            ((row.get(key) or "").strip() for key in ("question", "answer", "intent"))
            if (problem is None)
            else ("", "", "")
        )
        if problem is None and not question:
            problem = "no question"
        if problem is None and answers_required and not answer:
            problem = "no answer"
        if problem is None:
            entries.append(Entry(question, answer, intent))
        else:
            problems.append(f"{path}, line {line}: {problem}.")
    if problems:
        more = [f"... and {len(problems) - _SHOWN_PROBLEMS} more."] if len(problems) > _SHOWN_PROBLEMS else []
        raise DataError("\n".join(problems[:_SHOWN_PROBLEMS] + more))
    return entries


def _read_corpus(folder, language):
    """A folder of YAML files as chatterbot-corpus has them: lists of turns, each an answer to the turn before."""
    files = sorted(folder.glob("*.yml"))
    if not files:
        files = sorted((folder / language).glob("*.yml"))
    if not files:
        languages = sorted(path.name for path in folder.iterdir() if any(path.glob("*.yml")))
        raise DataError(f"{folder} has no language {language!r}. It has: {', '.join(languages) or 'no YAML files'}.")
    entries = []
    for file in files:
        text = _read_text(file)
        try:
            # The C loader is ten times as fast and knows the lines too.
            conversations = yaml.load(text, Loader=yaml.CSafeLoader)["conversations"]
        except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{file} is not a chatterbot-corpus file: {error}") from None
        if not isinstance(conversations, list):
            raise DataError(f"{file} is not a chatterbot-corpus file: its conversations are no list.")
        for number, turns in enumerate(conversations, start=1):
            if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, str) for turn in turns):
                logger.warning("%s: conversation %d is no list of turns and is left out: %r", file, number, turns)
                continue
            for question, answer in itertools.pairwise(turns):
                if question.strip() and answer.strip():
                    entries.append(Entry(question.strip(), answer.strip(), file.stem))
    return entries
