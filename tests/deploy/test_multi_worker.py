"""deploy/multi_worker: the program trains on two hosts what it trains on one, and goes on when a worker was killed."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_attention.models import TextEncoder
from tests.deploy.files import DEPLOY
from tests.deploy.hosts import two_hosts

FOLDER = DEPLOY / "multi_worker"
ROOT = DEPLOY.parent
SIZES = "--batch-size 16 --sequence-length 12 --vocabulary-size 120 --hidden-dim 16 --num-layers 1 --dropout 0"
OPTIONS = f"{SIZES} --training.epochs 20 --training.no-progress --optimizer.warmup-steps 10 --optimizer.epsilon 1e-3"
LAUNCH = [sys.executable, "-m", "keras_attention.training.launch"]
HOSTS = two_hosts()
_PLACES = ("my card", "the transfer", "a refund", "the app", "my account", "the exchange rate")
_TEXTS = {
    "where": ("where is {}?", "I cannot find {}", "is {} still on its way?"),
    "broken": ("{} does not work", "there is an error with {}", "why was {} declined?"),
    "cost": ("what does {} cost?", "is there a fee for {}?", "how much do I pay for {}?"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Questions and what they are about, a number of rows that no batch size divides."""
    rows = [(text.format(place), kind) for kind, texts in _TEXTS.items() for text in texts for place in _PLACES]
    rows = random.Random(0).sample(rows, 49)
    path = tmp_path_factory.mktemp("data") / "questions.csv"
    path.write_text("text,category\n" + "".join(f'"{text}",{kind}\n' for text, kind in rows))
    return path


def _environment(tf_config=None):
    # As on any machine that has the package and nothing of the tests.
    environment = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    return {**environment, "CUDA_VISIBLE_DEVICES": "", **({"TF_CONFIG": tf_config} if tf_config else {})}


def _command(data, output, options=""):
    program = [sys.executable, str(FOLDER / "train.py"), "--data", str(data), "--output", str(output)]
    return [*program, *OPTIONS.split(), *options.split()]


def _run(command, log, tf_config=None, **options):
    with log.open("wb") as file:
        return subprocess.Popen(
            command, env=_environment(tf_config), cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, **options
        )


def _results(output):
    known = {"TextEncoder": TextEncoder}
    model = keras.models.load_model(output / "model.keras", custom_objects=known, compile=False)
    return json.loads((output / "history.json").read_text()), model


def _require_same(output, expected, tolerance):
    (history, model), (expected_history, expected_model) = _results(output), _results(expected)
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    for name, values in expected_history.items():
        np.testing.assert_allclose(history[name], values, rtol=0, atol=tolerance, err_msg=name)
    for weight, other in zip(model.get_weights(), expected_model.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """What one process makes of it."""
    folder = tmp_path_factory.mktemp("alone")
    process = _run(_command(data, folder / "run"), folder / "log")
    assert process.wait(300) == 0, (folder / "log").read_text()
    return folder / "run"


@pytest.mark.parametrize("hosts", [HOSTS], ids=lambda hosts: hosts.__name__.lower())
def test_two_hosts_train_what_one_process_trains(data, alone, tmp_path, hosts):
    with hosts() as network:
        processes = []
        for index in range(2):
            task = {"cluster": {"worker": list(network.addresses)}, "task": {"type": "worker", "index": index}}
            command = [*network.prefix(index), *_command(data, tmp_path / f"run-{index}")]
            processes.append(_run(command, tmp_path / f"log-{index}", json.dumps(task)))
        try:
            statuses = [process.wait(300) for process in processes]
        finally:
            for process in processes:
                process.kill()
    assert statuses == [0, 0], [(tmp_path / f"log-{index}").read_text() for index in range(2)]
    _require_same(tmp_path / "run-0", alone, 1e-5)
    assert not (tmp_path / "run-1").exists()  # only the chief writes


def _worker_of(launcher):
    """The process that a launcher has started."""
    (pid,) = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return int(pid)


@pytest.mark.parametrize("hosts", [HOSTS], ids=lambda hosts: hosts.__name__.lower())
def test_launchers_on_two_hosts_start_both_workers_again_when_one_was_killed(data, alone, tmp_path, hosts):
    checkpoints, logs = tmp_path / "checkpoints", [tmp_path / f"log-{index}" for index in range(2)]
    options = f"--training.checkpoint-folder {checkpoints} --training.checkpoint-every-steps 1"
    command = _command(data, tmp_path / "run", options)
    with hosts() as network:
        launchers = []
        for index in range(2):
            launch = [*LAUNCH, "--addresses", *network.addresses, "--index", str(index), "--max-restarts", "6", "--"]
            launchers.append(_run([*network.prefix(index), *launch, *command], logs[index]))
        try:
            deadline = time.monotonic() + 300
            while not list(checkpoints.glob("*.npz")):
                assert time.monotonic() < deadline, logs[0].read_text()
                assert [launcher.poll() for launcher in launchers] == [None, None], logs[0].read_text()
                time.sleep(0.02)
            os.kill(_worker_of(launchers[1]), signal.SIGKILL)
            statuses = [launcher.wait(300) for launcher in launchers]
        finally:
            for launcher in launchers:
                launcher.kill()
    assert statuses == [0, 0], [log.read_text() for log in logs]
    assert "launch: worker 1 ended with status 137; all are started again, 1 of 6" in logs[1].read_text()
    # However TensorFlow ends a worker that has lost another.
    assert re.search(r"launch: worker 0 ended with status \d+; all are started again, 1 of 6", logs[0].read_text())
    _require_same(tmp_path / "run", alone, 1e-5)
