"""Everything in deploy/ is what it claims to be: for each file the schema, messages or grammar of what reads it."""

import kubernetes_validate
import promql_parser
import pytest
import yaml
from compose_spec import PyCompose
from google.protobuf import text_format

from keras_attention.serving.batching_options import read_batching_options
from keras_attention.serving.config_messages import BatchingParameters, MonitoringConfig
from keras_attention.serving.protocol import ModelServerConfig
from tests.deploy.files import DEPLOY, MANIFESTS, manifest, read_yaml


@pytest.mark.parametrize(
    ("name", "message"),
    [("models", ModelServerConfig), ("batching", BatchingParameters), ("monitoring", MonitoringConfig)],
)
def test_the_configuration_files_are_the_messages_that_the_server_reads(name, message):
    parsed = text_format.Parse((DEPLOY / "serving" / f"{name}.config").read_text(), message())
    assert parsed.ByteSize()


def test_the_batching_parameters_pass_the_embedded_servers_checks():
    assert read_batching_options(DEPLOY / "serving/batching.config").max_batch_size == 32


@pytest.mark.parametrize("version", ["1.31", "1.37"])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_manifests_fit_the_schemas_of_kubernetes(path, version):
    documents = list(yaml.safe_load_all(path.read_text()))
    assert documents
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_check_of_manifests_finds_a_misspelt_field():
    deployment = manifest("Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.31", strict=True)


def test_the_compose_file_is_one_by_the_compose_specification():
    text = (DEPLOY / "compose.yaml").read_text()
    assert set(PyCompose.from_yaml(text).service_names()) == {"serving", "prometheus", "tensorboard"}
    with pytest.raises(ValueError, match="healthchek"):
        PyCompose.from_yaml(text.replace("healthcheck:", "healthchek:"))


def test_prometheus_is_told_what_to_read_in_its_own_words():
    config = read_yaml("prometheus.yml")
    assert set(config) == {"global", "rule_files", "scrape_configs"}
    (job,) = config["scrape_configs"]
    assert set(job) == {"job_name", "metrics_path", "fallback_scrape_protocol", "static_configs"}
    assert config["rule_files"] == ["alerts.yml"]


def test_the_alerts_are_expressions_of_prometheus():
    (group,) = read_yaml("alerts.yml")["groups"]
    for rule in group["rules"]:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert isinstance(promql_parser.parse(rule["expr"]), promql_parser.BinaryExpr)
        promql_parser.parse_duration(rule["for"])


def test_the_adapters_rule_is_yaml_with_expressions():
    (rule,) = yaml.safe_load(manifest("ConfigMap", "prometheus-adapter")["data"]["config.yaml"])["rules"]
    promql_parser.parse(rule["seriesQuery"])
    query = rule["metricsQuery"]
    for template, value in {"Series": "x", "LabelMatchers": 'a="b"', "GroupBy": "pod"}.items():
        assert f"<<.{template}>>" in query
        query = query.replace(f"<<.{template}>>", value)
    assert promql_parser.parse(query).prettify()
