"""Whoever watches a run sees how far it is, how fast it goes and how long it takes yet."""

import os
import re
import sys
import time

import keras
import pytest

from keras_attention.training import TrainingConfig, fit
from tests.training import worker

RATE = r"[\d.e+]+ batches/s  [\d.e+]+ examples/s"
LOGS = r"loss [\d.]+  accuracy [\d.e-]+"


class _Slow(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        time.sleep(0.11)


class _Stop(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        self.step -= 1
        if not self.step:
            raise KeyboardInterrupt


def _fit(data=None, callbacks=(), **options):
    data = worker.dataset() if data is None else data
    fit(lambda: worker.build({}, layers=1), data, None, TrainingConfig(**options), list(callbacks))


def _on_a_terminal(monkeypatch, *arguments, **options):
    """What a run writes to a terminal, line by line."""
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        _fit(*arguments, **options)
        monkeypatch.undo()
        written = b""
        while len(chunk := os.read(master, 65536)) == 65536:
            written += chunk
    os.close(master)
    return re.split(r"[\r\n]+", (written + chunk).decode())


def test_a_terminal_shows_rate_and_time_left_while_it_trains(monkeypatch):
    lines = [line.rstrip() for line in _on_a_terminal(monkeypatch, callbacks=[_Slow()], epochs=2)]
    assert [line for line in lines if line.startswith("Epoch")] == ["Epoch 1/2", "Epoch 2/2"]
    assert any(re.fullmatch(rf"3/6  \d:\d\d  {RATE}  \d:\d\d left  {LOGS}", line) for line in lines)
    assert sum(bool(re.fullmatch(rf"6/6  \d:\d\d  {RATE}  {LOGS}", line)) for line in lines) >= 2


def test_an_unknown_number_of_batches_is_known_after_the_first_epoch(monkeypatch):
    endless = worker.dataset().filter(lambda *_: True)
    assert endless.cardinality() < 0
    lines = _on_a_terminal(monkeypatch, endless, callbacks=[_Slow()], epochs=2)
    second = lines.index("Epoch 2/2")
    assert any(re.match(rf"3 batches  \d:\d\d  {RATE}  {LOGS}", line) for line in lines[:second])
    assert any(re.match(rf"3/6  \d:\d\d  {RATE}  \d:\d\d left  {LOGS}", line) for line in lines[second:])


def test_the_rate_of_a_resumed_epoch_is_that_of_the_batches_done_since(monkeypatch, tmp_path):
    endless = worker.dataset().repeat()
    options = {
        "epochs": 1,
        "steps_per_epoch": 24,
        "checkpoint_folder": tmp_path,
        "checkpoint_every_steps": 20,
    }
    with pytest.raises(KeyboardInterrupt):
        _fit(endless, [_Stop(22)], progress=False, **options)
    lines = _on_a_terminal(monkeypatch, endless, callbacks=[_Slow()], **options)
    rates = [float(match[1]) for line in lines if (match := re.match(r"2[34]/24 .* ([\d.]+) batches/s", line))]
    assert rates
    assert max(rates) < 1 / 0.11


def test_a_file_gets_a_line_for_each_epoch(capsys):
    _fit(epochs=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if not re.match(r"[1-5]/6 ", line)]  # if it is slow
    assert lines[::2] == ["Epoch 1/2", "Epoch 2/2"]
    for line in lines[1::2]:
        assert re.fullmatch(rf"6/6  \d:\d\d  {RATE}  {LOGS}", line)


def test_no_bar_is_shown_if_none_is_wanted(capsys):
    _fit(progress=False)
    assert not capsys.readouterr().out
