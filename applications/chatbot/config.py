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
