"""The run folder: what is never lost when one is written, and what is said about one that is damaged."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from applications.chatbot import run
from applications.chatbot.data import Entry
from applications.chatbot.run import Run, RunError
from keras_attention.models import TextEncoder
from keras_attention.text import WordPieceTokenizer


def make(fallback="first"):
    """A run with an encoder that has learnt nothing."""
    tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hi", "who"], sequence_length=8)
    encoder = TextEncoder(6, 8, num_layers=1, num_heads=2, hidden_dim=4, intermediate_dim=8, seed=1)
    encoder.build((None, None))
    config = {"threshold": 0.6, "fallback": fallback, "alternatives": 3}
    return Run(encoder, tokenizer, [Entry("Hi", "Hello"), Entry("Who", "Me")], np.eye(2, 4, dtype="float32"), config)


@pytest.fixture(scope="module")
def made():
    return make()


@pytest.fixture
def folder(made, tmp_path):
    """A run that was saved."""
    made.save(tmp_path / "run")
    return tmp_path / "run"


_KILLED = {
    "while it writes": "np.save = die",
    "while the old run is out of its place": (
        "rename = Path.rename\nPath.rename = lambda path, to: die() if path.name[0] == '.' else rename(path, to)"
    ),
}


@pytest.mark.parametrize("moment", _KILLED)
def test_a_process_killed_while_it_saves_loses_no_run_and_the_next_save_removes_what_it_left(moment, made, folder):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nimport numpy as np\n"
        "from tests.applications.chatbot.test_run import make\n"
        f"def die(*_): os.kill(os.getpid(), signal.SIGKILL)\nnew = make('second')\n{_KILLED[moment]}\n"
        "new.save(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(folder.parent.iterdir())) > 1

    failing = dataclasses.replace(made, config={"fallback": object()})
    with pytest.raises(TypeError, match="not JSON serializable"):
        failing.save(folder)
    assert run.load(folder).config["fallback"] == "first"
    made.save(folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_the_old_run_comes_back_if_the_new_one_cannot_be_put_in_its_place(made, folder, monkeypatch):
    rename = Path.rename

    def fail_for_the_new(path, target):
        if path.name == f".run.{os.getpid()}":
            raise OSError("the disk is full")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(OSError, match="the disk is full"):
        make("second").save(folder)
    assert run.load(folder).config["fallback"] == "first"
    assert list(folder.parent.iterdir()) == [folder]


def test_what_a_running_process_or_someone_else_has_beside_the_run_stays(made, folder):
    beside = [folder.with_name(name) for name in (f".run.{os.getppid()}", ".run.999999999", ".run.old", ".other.1")]
    for path in beside:
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    made.save(folder)
    assert all((path / "notes.txt").is_file() for path in beside)


@pytest.mark.parametrize("name", ["notes.txt", "encoder/notes.txt", "tests/faq.csv", ".hidden"])
def test_a_run_folder_that_holds_files_of_its_user_is_not_replaced(name, made, folder):
    (folder / "report.json").touch()
    made.save(folder)
    assert not (folder / "report.json").exists()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    for refused in (lambda: run.check_output(folder), lambda: made.save(folder)):
        with pytest.raises(RunError, match=f"would be lost: {name}. Move them"):
            refused()
    assert (folder / name).read_text() == "mine"


def test_the_working_directory_is_no_place_for_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in (".", "..", tmp_path):
        with pytest.raises(RunError, match="holds the working directory"):
            run.check_output(place)


def test_a_path_through_a_link_or_dots_saves_where_it_leads(made, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    made.save(tmp_path / "link" / ".." / "link")
    assert run.load(tmp_path / "real").entries == made.entries
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("embeddings.npy", b""),
        ("embeddings.npy", b"what is this"),
        ("embeddings.npy", 3),
        ("embeddings.npy", 1),
        ("entries.jsonl", b""),
        ("entries.jsonl", b'{"text": "Hi"}\n'),
        ("entries.jsonl", b"[1]\n"),
        ("entries.jsonl", b'{"question": 7, "answer": "Seven"}\n'),
        ("entries.jsonl", b"\xff\n"),
        ("config.json", b""),
        ("config.json", b"[1]"),
        ("config.json", b'{"format": 1, "threshold": "high", "fallback": "", "alternatives": 3}'),
        ("encoder/config.json", b"{"),
        ("encoder/vocab.txt", b"hi\nhi\n"),
    ],
)
def test_a_damaged_run_is_refused_with_the_file(name, content, folder):
    if isinstance(content, int):
        np.save(folder / name, np.zeros((content, 4), "float32"))
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=str(folder / name).removesuffix("/vocab.txt")):
        run.load(folder)


def test_a_file_is_no_run(folder):
    with pytest.raises(RunError, match=r"embeddings.npy is not a run of the chatbot"):
        run.load(folder / "embeddings.npy")


def test_settings_of_another_version_are_refused(folder):
    (folder / "config.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(RunError, match=r"config.json was not written by this version"):
        run.load(folder)
