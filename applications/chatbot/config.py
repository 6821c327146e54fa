"""The settings of every verb, in a module that is cheap to import."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from applications.chatbot.data import PUBLIC

# The score of a question with itself is 1 but for the noise of float32, and it must always be answered.
HIGHEST_THRESHOLD = 0.999


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
        if self.threshold is not None and not 0 <= self.threshold <= HIGHEST_THRESHOLD:
            raise ValueError(f"threshold must be from 0 to {HIGHEST_THRESHOLD}. Received: {self.threshold}")
        if self.alternatives < 0 or self.batch_size < 1:
            raise ValueError(
                "alternatives must be at least 0 and batch_size at least 1. "
                f"Received: {self.alternatives}, {self.batch_size}"
            )


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Where from and where to.

    Attributes:
        run: The run folder that train wrote.
        output: The servable's folder; its next version is written.
    """

    run: Path = Path("runs/chatbot")
    output: Path = Path("saved_models/chatbot")


@dataclasses.dataclass(frozen=True)
class AskConfig:
    """Whom to ask what.

    Attributes:
        questions: The questions; without any they are read from the standard input, one a line.
        run: The run folder that train wrote, asked in this process.
        server: host:port of a server to ask instead, such as 127.0.0.1:8500.
        model: The model's name on the server.
    """

    questions: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    run: Path = Path("runs/chatbot")
    server: str | None = None
    model: str = "chatbot"


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What to ask whom.

    Attributes:
        run: The run folder that train wrote.
        data: A file as for train, of questions with the answers that the bot should give; an empty answer marks a
            question that it should not answer. Without a file every question of the catalogue is asked with itself left
            out: it should be answered if another question has the same answer.
        language: The language, where the data is a chatterbot-corpus folder.
        output: The folder for report.json and report.png; the run folder if not given.
    """

    run: Path = Path("runs/chatbot")
    data: str | None = None
    language: str = "english"
    output: Path | None = None


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Where the demonstration writes.

    Attributes:
        run: The run folder.
        output: The servable's folder.
    """

    run: Path = Path("runs/chatbot")
    output: Path = Path("saved_models/chatbot")


@dataclasses.dataclass(frozen=True)
class MineConfig:
    """Which conversations to turn into questions and answers.

    Attributes:
        data: The log, a turn a row with conversation, speaker, time and text: a CSV file, or JSON Lines (.jsonl).
        output: The CSV file that is written, for a person to review and then for train.
        customers: The speakers (or roles) that are customers, if it is not plain from their names.
        agents: Those that are agents. With one of both given, all others are on the other side.
        conversation_column: The column of the conversation's id, if its name is not a usual one.
        speaker_column: The column of who speaks.
        role_column: The column of the side that the speaker is on, such as role or inbound.
        time_column: The column of the time: ISO 8601, or seconds since 1970.
        text_column: The column of what was said.
        min_support: In how many conversations a question must have come up.
        similarity: How much of their short pieces two texts must share to count as one; the numbers and, but for slips
            of the pen, the words must agree besides.
        region: The two letters of the country whose phone numbers are masked when they are written without a +.
        small_talk: A file of the phrases that are neither question nor answer, instead of small_talk.ini.
        skip_malformed: Leave out rows that cannot be read.
        overwrite: Replace the file that stands at output, with what was changed in it.
    """

    data: Path
    output: Path = Path("pairs.csv")
    customers: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    conversation_column: str | None = None
    speaker_column: str | None = None
    role_column: str | None = None
    time_column: str | None = None
    text_column: str | None = None
    min_support: int = 2
    similarity: float = 0.7
    region: str = "US"
    small_talk: Path | None = None
    skip_malformed: bool = False
    overwrite: bool = False

    def __post_init__(self):
        if self.min_support < 1 or not 0 < self.similarity <= 1:
            raise ValueError(
                "min_support must be at least 1, and similarity above 0 and at most 1. "
                f"Received: {self.min_support}, {self.similarity}"
            )
