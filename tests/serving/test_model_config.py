"""A server of a model config file: several models, policies, labels, reloads by RPC and by the file, warm-up."""

import shutil

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from tests.serving.asking import TIMEOUT, example_list, predict_request, refusal, states, wait_until
from tests.serving.conftest import write_example_version

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def models(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def model(name, base_path, extra="") -> str:
    return f"config {{ name: '{name}' base_path: '{base_path}' model_platform: 'tensorflow' {extra} }}"


def reload_request(*configs: str) -> model_management_pb2.ReloadConfigRequest:
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(f"model_config_list {{ {' '.join(configs)} }}", request.config)
    return request


@pytest.fixture(scope="module")
def versions_path(tmp_path_factory, examples_path):
    """The base path of a model with the versions 1, 2 and 3."""
    base_path = tmp_path_factory.mktemp("versions")
    for version in (1, 2, 3):
        shutil.copytree(examples_path / "1", base_path / str(version))
    return base_path


@pytest.fixture
def apply(models, examples_path):
    """Reloads the server with the model `examples` and others, and without the others at the end."""

    def apply(*configs: str) -> None:
        models.HandleReloadConfigRequest(reload_request(model("examples", examples_path), *configs), timeout=TIMEOUT)

    yield apply
    apply()


def ask(predictions, spec):
    request = predict_request(spec + " signature_name: 'plain'", inputs=[b""])
    return predictions.Predict(request, timeout=TIMEOUT).model_spec.version.value


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [3]),
        ("model_version_policy { latest { num_versions: 2 } }", [2, 3]),
        ("model_version_policy { all {} }", [1, 2, 3]),
        ("model_version_policy { specific { versions: 1 versions: 3 versions: 9 } }", [1, 3]),
    ],
    ids=["default", "latest", "all", "specific"],
)
def test_a_policy_says_which_versions_are_served(apply, models, predictions, versions_path, policy, served):
    apply(model("m", versions_path, policy))
    found = states(models, "m")
    assert sorted(version for version, state in found.items() if state == "AVAILABLE") == served
    assert ask(predictions, "name: 'm'") == max(served)


def test_a_reload_replaces_the_whole_config_and_unloads_what_it_does_not_name(
    apply, models, predictions, versions_path
):
    apply(model("gone", versions_path), model("kept", versions_path))
    apply(model("kept", versions_path, "model_version_policy { specific { versions: 1 } }"))
    request = predict_request("name: 'gone' signature_name: 'plain'", inputs=[b""])
    assert refusal(predictions.Predict, request)[1] == "Servable not found for request: Latest(gone)"
    assert ask(predictions, "name: 'kept'") == 1
    wait_until(lambda: states(models, "gone") == {3: "END"})
    wait_until(lambda: states(models, "kept") == {1: "AVAILABLE", 3: "END"})
    apply(model("gone", versions_path))
    assert ask(predictions, "name: 'gone'") == 3


def test_labels_name_versions_in_service_and_move_with_a_reload(apply, models, predictions, versions_path):
    both = "model_version_policy { all {} }"
    stable = "version_labels { key: 'stable' value: %d }"
    apply(model("m", versions_path, both))
    for version in (1, 2):
        apply(model("m", versions_path, both + stable % version))
        assert ask(predictions, "name: 'm' version_label: 'stable'") == version
    status = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "m", "version_label": "stable"})
    assert [v.version for v in models.GetModelStatus(status, timeout=TIMEOUT).model_version_status] == [2]

    not_there = reload_request(model("m", versions_path, both + stable % 9))
    assert refusal(models.HandleReloadConfigRequest, not_there) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "Request to assign label to version 9 of model m, which is not currently available for inference",
    )
    assert ask(predictions, "name: 'm' version_label: 'stable'") == 2


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        (["config { name: 'm' base_path: '/' }"], "Illegal setting neither ModelServerConfig::model_type"),
        (
            ["config { name: 'm' base_path: '/' model_platform: 'caffe' }"],
            "Model m requests unsupported platform caffe",
        ),
        ([model("m", "/"), model("m", "/")], "Illegal to list model m multiple times in config list"),
        ([model("m", "here")], "Expected model m to have an absolute path or URI; got base_path()=here"),
        ([model("m", "/no/where")], "Could not find base path /no/where for servable m"),
        ([model("", "/")], "a model of the config list has no name"),
        ([model("m", "/", "model_version_policy { specific {} }")], "names no versions"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused_and_the_running_one_stays(models, predictions, configs, message):
    code, received = refusal(models.HandleReloadConfigRequest, reload_request(*configs))
    assert code == INVALID_ARGUMENT
    assert message in received
    assert ask(predictions, "name: 'examples'") == 1


def test_a_config_without_a_list_is_refused(models):
    code, message = refusal(models.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest())
    assert code == INVALID_ARGUMENT
    assert message.startswith("ServerModelConfig type not supported by HandleReloadConfigRequest.")


def log(signature: str, method: str) -> prediction_log_pb2.PredictionLog:
    """A warm-up record of one of the four kinds."""
    record = prediction_log_pb2.PredictionLog()
    if method == "predict":
        record.predict_log.request.CopyFrom(predict_request(f"signature_name: '{signature}'", inputs=[b""]))
        return record
    request = {
        "classify": record.classify_log.request,
        "regress": record.regress_log.request,
        "multi_inference": record.multi_inference_log.request,
    }[method]
    request.input.CopyFrom(example_list(0.5))
    if method == "multi_inference":
        spec = {"name": "any", "signature_name": signature}
        request.tasks.add(model_spec=spec, method_name="tensorflow/serving/classify")
    else:
        request.model_spec.signature_name = signature
    return record


def test_the_warm_up_runs_records_of_every_kind_before_a_version_is_in_service(apply, config_server, tmp_path):
    logs = [log("plain", "predict"), log("", "classify"), log("regress", "regress"), log("", "multi_inference")]
    version = write_example_version(tmp_path, 1, logs)
    apply(model("warm", tmp_path))
    assert f"ran 4 warm-up records of {version}" in config_server.log.read_text()


@pytest.mark.parametrize(
    ("logs", "message"),
    [
        ([log("plain", "predict"), log("x", "classify")], "failed: No signature was found with the name: x"),
        ([log("plain", "predict")] * 1001, "Number of warmup records exceeds the maximum (1000) at"),
        ([b"\xff\xff"], "Failed to parse warmup record 1 from"),
    ],
    ids=["a failing record", "too many", "no record"],
)
def test_a_version_whose_warm_up_fails_is_not_served_says_why_and_is_tried_again(
    models, predictions, apply, tmp_path, logs, message
):
    apply(model("cold", write_example_version(tmp_path, 1).parent))
    write_example_version(tmp_path, 2, logs)

    def reason():
        request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "cold", "version": {"value": 2}})
        entry = models.GetModelStatus(request, timeout=TIMEOUT).model_version_status[0]
        return entry.status.error_message if entry.state == entry.END else ""

    wait_until(lambda: 2 in states(models, "cold") and message in reason())
    assert ask(predictions, "name: 'cold'") == 1
    if message.endswith("name: x"):
        shutil.rmtree(tmp_path / "2" / "assets.extra")
        wait_until(lambda: states(models, "cold") == {1: "END", 2: "AVAILABLE"})


def test_a_new_model_that_cannot_be_loaded_is_told_to_who_reloads(models, examples_path, tmp_path, apply):
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "saved_model.pb").write_bytes(b"half a model")
    request = reload_request(model("examples", examples_path), model("broken", tmp_path))
    assert refusal(models.HandleReloadConfigRequest, request) == (
        grpc.StatusCode.UNKNOWN,
        "Some models did not become available: {{name: broken version: 5}, }",
    )
    assert states(models, "broken")[5] in ("END", "LOADING")


def test_the_file_is_watched_and_a_malformed_one_changes_nothing(
    config_server, predictions, models, config_file, examples_path, versions_path, apply
):
    good = config_file.read_text()
    try:
        config_file.write_text("model_config_list { nonsense")
        wait_until(lambda: "is no ModelServerConfig" in config_server.log.read_text())
        assert ask(predictions, "name: 'examples'") == 1
        entries = model("examples", examples_path) + model("from_file", versions_path)
        config_file.write_text(f"model_config_list {{ {entries} }}")
        wait_until(lambda: states(models, "from_file") == {3: "AVAILABLE"})
    finally:
        config_file.write_text(good)
    wait_until(lambda: states(models, "from_file") == {3: "END"})


def test_a_unix_socket_answers_and_a_message_over_the_limit_is_refused(config_server, socket_path):
    with grpc.insecure_channel(f"unix:{socket_path}") as channel:
        predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert ask(predictions, "name: 'examples'") == 1
        request = predict_request("name: 'examples' signature_name: 'plain'", inputs=[b"x" * 200_000])
        code, message = refusal(predictions.Predict, request)
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in message
