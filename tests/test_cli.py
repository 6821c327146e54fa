"""The `keras-attention` command, as a process."""

import socket
import subprocess
import sys

import pytest


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "keras_attention.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_help_lists_the_verbs_without_importing_tensorflow():
    code = (
        "import sys\n"
        "from keras_attention.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "finally:\n"
        "    assert not {'tensorflow', 'keras', 'grpc'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "serve" in done.stdout
    assert "verify" in done.stdout


def test_help_of_serve_names_the_flags_as_tensorflow_serving_does():
    done = run("serve", "--help")
    assert done.returncode == 0
    for flag in ("model_base_path", "model_name", "port", "host", "file_system_poll_wait_seconds"):
        assert f"--{flag}" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["sing"], ["serve"], ["serve", "--model_base_path=.", "--port=99999"], ["verify"]],
    ids=["unknown verb", "missing flag", "impossible port", "missing path"],
)
def test_a_command_line_that_makes_no_sense_exits_with_2(arguments):
    assert run(*arguments).returncode == 2


def test_a_base_path_that_does_not_exist_is_one_line_and_exit_code_1(tmp_path):
    missing = tmp_path / "nowhere"
    done = run("serve", f"--model_base_path={missing}", "--port=0")
    assert done.returncode == 1
    assert done.stderr == f"keras-attention: the base path {missing} does not exist or is no folder\n"


@pytest.mark.parametrize("flag", ["--model_base_path", "--model-base-path"])
def test_a_taken_port_is_one_line_and_exit_code_1(tmp_path, flag):
    with socket.socket() as other_server:
        other_server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other_server.bind(("127.0.0.1", 0))
        other_server.listen()
        port = other_server.getsockname()[1]
        done = run("serve", f"{flag}={tmp_path}", f"--port={port}")
    assert done.returncode == 1
    assert done.stderr == f"keras-attention: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_verifying_what_is_no_export_is_a_message_and_exit_code_1(tmp_path):
    done = run("verify", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("keras-attention: ")
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_verifying_an_export_counts_its_records(tmp_path):
    tf = pytest.importorskip("tensorflow")
    from keras_attention.serving import ServingFunction, export

    shout = ServingFunction(
        lambda text: {"shout": tf.strings.upper(text, encoding="utf-8")},
        inputs={"text": tf.TensorSpec([None], tf.string)},
    )
    export(tmp_path / "shout", {"serving_default": shout}, [], {"serving_default": [{"text": ["hello", "good bye"]}]})
    done = run("verify", str(tmp_path / "shout"))
    assert done.returncode == 0, done.stderr
    first, signature, total = done.stdout.splitlines()
    assert first.startswith(f"{tmp_path / 'shout' / '1'}: every record gives its recorded answer")
    assert signature.split() == ["serving_default", "1"]
    assert total.split() == ["records", "in", "all", "1"]
