"""The files of deploy/ agree with one another: paths, ports, names, figures."""

import dataclasses
import re

import pytest
import yaml
from google.protobuf import text_format

from keras_attention.serving.config import ServerConfig
from keras_attention.serving.config_messages import BatchingParameters, MonitoringConfig
from keras_attention.serving.protocol import ModelServerConfig
from tests.deploy.files import DEPLOY, container, manifest, manifests, pod, read_yaml, service


def read_config(name, message):
    return text_format.Parse((DEPLOY / "serving" / name).read_text(), message)


def flags(arguments: list[str]) -> dict[str, str]:
    return dict(argument.removeprefix("--").split("=", 1) for argument in arguments)


@pytest.fixture(scope="module")
def models() -> list[str]:
    return [model.name for model in read_config("models.config", ModelServerConfig()).model_config_list.config]


@pytest.fixture(scope="module")
def metrics_path() -> str:
    return read_config("monitoring.config", MonitoringConfig()).prometheus_config.path


def test_compose_and_kubernetes_start_the_same_server_alike():
    in_compose, in_kubernetes = flags(service("serving")["command"]), flags(container()["args"])
    # The image's script adds the ports, the manifest has to.
    assert in_kubernetes == {**in_compose, "port": "8500", "rest_api_port": "8501"}
    assert container()["image"] == service("serving")["image"]


def test_every_file_in_a_flag_is_mounted():
    mounts = {target: source for source, target, *_ in (v.split(":") for v in service("serving")["volumes"])}
    assert (DEPLOY / mounts["/config"]).resolve() == DEPLOY / "serving"
    assert (DEPLOY / mounts["/models"]).resolve() == DEPLOY.parent / "saved_models"
    data = manifest("ConfigMap", "serving-config")["data"]
    for value in flags(container()["args"]).values():
        if value.startswith("/"):
            folder, _, name = value.rpartition("/")
            assert folder == "/config"
            assert (DEPLOY / "serving" / name).is_file()
            assert name in data


def test_the_config_map_has_the_files_word_for_word():
    data = manifest("ConfigMap", "serving-config")["data"]
    assert data == {path.name: path.read_text() for path in (DEPLOY / "serving").iterdir()}


def test_volumes_and_mounts_of_the_pod_belong_together():
    volumes = {volume["name"]: volume for volume in pod()["spec"]["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert mounts == {"models": "/models", "config": "/config", "tmp": "/tmp"}
    assert set(volumes) == set(mounts)
    assert manifest("PersistentVolumeClaim", volumes["models"]["persistentVolumeClaim"]["claimName"])
    assert manifest("ConfigMap", volumes["config"]["configMap"]["name"])


def test_models_are_found_under_the_mounted_folder(models):
    assert models
    for model in read_config("models.config", ModelServerConfig()).model_config_list.config:
        assert model.base_path == f"/models/{model.name}"


def test_probes_ask_for_a_model_that_is_served(models):
    asked = re.findall(r"/v1/models/([^/ ]+)/metadata", str(service("serving")["healthcheck"]["test"]))
    for probe in ("startupProbe", "readinessProbe"):
        http = container()[probe]["httpGet"]
        asked += re.fullmatch(r"/v1/models/([^/]+)/metadata", http["path"]).groups()
        assert http["port"] == "http"
    assert len(asked) == 3
    assert set(asked) <= set(models)


def test_ports_are_the_same_everywhere():
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"grpc": 8500, "http": 8501}
    for kubernetes_service in (manifest("Service"), manifest("Service", "serving-rest")):
        for port in kubernetes_service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    assert service("serving")["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    assert container()["livenessProbe"]["tcpSocket"]["port"] in ports


def test_prometheus_reads_the_page_that_the_server_shows(metrics_path):
    (job,) = read_yaml("prometheus.yml")["scrape_configs"]
    assert job["metrics_path"] == metrics_path
    assert job["static_configs"] == [{"targets": ["serving:8501"]}]
    annotations = pod()["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == metrics_path
    assert annotations["prometheus.io/port"] == "8501"
    mounted = {volume.split(":")[0] for volume in service("prometheus")["volumes"]}
    assert {"./prometheus.yml", "./alerts.yml"} < mounted
    assert job["job_name"] in read_yaml("alerts.yml")["groups"][0]["rules"][0]["expr"]


def test_labels_and_names_select_the_pods():
    labels = pod()["metadata"]["labels"].items()
    for kind, name in (("Service", "serving"), ("Service", "serving-rest")):
        assert manifest(kind, name)["spec"]["selector"].items() <= labels
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert manifest(kind)["spec"]["selector"]["matchLabels"].items() <= labels
    target = manifest("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert manifest(target["kind"], target["name"])["apiVersion"] == target["apiVersion"]
    namespace = manifest("Namespace")["metadata"]["name"]
    for found in manifests():
        if found["kind"] != "Namespace" and found["metadata"]["name"] != "prometheus-adapter":
            assert found["metadata"]["namespace"] == namespace


def test_the_autoscaler_reads_the_metric_that_the_adapter_makes():
    (rule,) = yaml.safe_load(manifest("ConfigMap", "prometheus-adapter")["data"]["config.yaml"])["rules"]
    kinds = {metric["type"]: metric for metric in manifest("HorizontalPodAutoscaler")["spec"]["metrics"]}
    assert set(kinds) == {"Resource", "Pods"}
    assert kinds["Pods"]["pods"]["metric"]["name"] == rule["name"]["as"]


def test_threads_follow_the_cores_and_the_end_outlasts_the_wait():
    threads = read_config("batching.config", BatchingParameters()).num_batch_threads.value
    assert threads == int(container()["resources"]["requests"]["cpu"]) == service("serving")["cpus"]
    _, seconds = container()["lifecycle"]["preStop"]["exec"]["command"]
    assert pod()["spec"]["terminationGracePeriodSeconds"] >= 2 * int(seconds)


def test_the_page_has_a_line_for_every_flag_of_the_embedded_server():
    page = (DEPLOY / "README.md").read_text()
    told = {name for line in page.splitlines() if line.startswith("| `--") for name in re.findall(r"`--(\w+)`", line)}
    assert {field.name for field in dataclasses.fields(ServerConfig)} <= told
