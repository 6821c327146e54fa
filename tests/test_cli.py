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
    flags = """
        model_base_path model_name model_config_file model_config_file_poll_wait_seconds port host grpc_socket_path
        grpc_channel_arguments ssl_config_file file_system_poll_wait_seconds max_num_load_retries
        load_retry_interval_micros allow_version_labels_for_unavailable_models enable_model_warmup enable_batching
        num_workers batching_parameters_file rest_api_port rest_api_timeout_in_ms rest_api_enable_cors_support
        monitoring_config_file
    """
    for flag in flags.split():
        assert f"--{flag}" in done.stdout.replace("--no-enable_model_warmup", "--enable_model_warmup")


@pytest.mark.parametrize(
    "arguments",
    [
        ["sing"],
        ["serve"],
        ["serve", "--model_base_path=.", "--port=99999"],
        ["serve", "--model_base_path=.", "--port=8500", "--rest_api_port=8500"],
        ["serve", "--model_base_path=.", "--num_workers=0"],
        ["serve", "--model_base_path=.", "--batching_parameters_file=b"],
        ["serve", "--model_base_path=.", "--grpc_channel_arguments=grpc.max_receive_message_length"],
        ["verify"],
    ],
    ids=[
        "unknown verb",
        "missing flag",
        "impossible port",
        "one port",
        "no workers",
        "parameters without batching",
        "no value",
        "missing path",
    ],
)
def test_a_command_line_that_makes_no_sense_exits_with_2(arguments):
    assert run(*arguments).returncode == 2


def test_a_base_path_that_does_not_exist_is_one_line_and_exit_code_1(tmp_path):
    missing = tmp_path / "nowhere"
    done = run("serve", f"--model_base_path={missing}", "--port=0")
    assert done.returncode == 1
    assert done.stderr == f"keras-attention: the base path {missing} does not exist or is no folder\n"


@pytest.mark.parametrize(
    ("flag", "flags"),
    [
        ("--model_base_path", "--port"),
        ("--model-base-path", "--port=0 --rest_api_port"),
        ("--model_base_path", "--num_workers=2 --port"),
        ("--model_base_path", "--num_workers=2 --port=0 --rest_api_port"),
    ],
)
def test_a_taken_port_is_one_line_and_exit_code_1(tmp_path, flag, flags):
    with socket.socket() as other_server:
        other_server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other_server.bind(("127.0.0.1", 0))
        other_server.listen()
        port = other_server.getsockname()[1]
        done = run("serve", f"{flag}={tmp_path}", *f"{flags}={port}".split())
    assert done.returncode == 1
    assert done.stderr == f"keras-attention: cannot listen on 127.0.0.1:{port}: Address already in use\n"


MODEL = "config { name: 'm' base_path: '/' model_platform: 'tensorflow' %s }"
STABLE = MODEL % "version_labels { key: 'stable' value: 1 }"


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("model_config_file", None, "cannot read {path}: No such file or directory"),
        ("model_config_file", "nonsense", "Invalid protobuf file: '{path}' is no ModelServerConfig: 1:1 : "),
        ("model_config_file", "", "{path}: ServerModelConfig type not supported"),
        (
            "model_config_file",
            f"model_config_list {{ {STABLE} }}",
            "{path}: Request to assign label to version 1 of model m, which is not currently available for inference",
        ),
        (
            "monitoring_config_file",
            "prometheus_config { on: true }",
            "Invalid protobuf file: '{path}' is no MonitoringConfig: 1:21 : ",
        ),
        ("ssl_config_file", "server_key: 1", "Invalid protobuf file: '{path}' is no SSLConfig: 1:13 : "),
        (
            "batching_parameters_file",
            "max_batch_size { value: 4 } allowed_batch_sizes: 8",
            "final entry in allowed_batch_sizes must equal max_batch_size in {path}. "
            "Received: [8] with max_batch_size 4",
        ),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line_and_exit_code_1(tmp_path, flag, text, message):
    path = tmp_path / "file"
    if text is not None:
        path.write_text(text)
    batching = ["--enable_batching"] if flag.startswith("batching") else []
    done = run("serve", f"--model_base_path={tmp_path}", f"--{flag}={path}", "--port=0", *batching)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("keras-attention: " + message.format(path=path))


@pytest.mark.parametrize("there", ["a server", "a file", "no folder"])
def test_a_taken_socket_is_one_line_and_exit_code_1(tmp_path, there):
    path = tmp_path / ("missing/socket" if there == "no folder" else "socket")
    with socket.socket(socket.AF_UNIX) as other_server:
        if there == "a server":
            other_server.bind(str(path))
            other_server.listen()
        elif there == "a file":
            path.touch()
        done = run("serve", f"--model_base_path={tmp_path}", "--port=0", f"--grpc_socket_path={path}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"keras-attention: cannot listen on unix:{path}: ")


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
