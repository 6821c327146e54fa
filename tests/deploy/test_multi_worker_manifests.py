"""deploy/multi_worker/kubernetes: what Kubernetes accepts, and the TF_CONFIG that its pods come to have."""

import importlib.util
import re
import shlex
import sys

import kubernetes_validate
import pytest
import tyro
import yaml

from keras_attention.training import read_cluster
from tests.deploy.files import DEPLOY

FOLDER = DEPLOY / "multi_worker"
JOBSET = yaml.safe_load((FOLDER / "kubernetes/jobset.yaml").read_text())
NAMESPACE = list(yaml.safe_load_all((FOLDER / "kubernetes/namespace.yaml").read_text()))
(REPLICATED,) = JOBSET["spec"]["replicatedJobs"]
JOB = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "worker"}, "spec": REPLICATED["template"]["spec"]}
POD = JOB["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
NAME = JOBSET["metadata"]["name"]


@pytest.mark.parametrize("version", ["1.31", "1.37"])
@pytest.mark.parametrize("document", [JOB, *NAMESPACE], ids=lambda document: document["kind"])
def test_the_manifests_fit_the_schemas_of_kubernetes(document, version):
    kubernetes_validate.validate(document, version, strict=True)


def test_the_job_set_has_only_fields_that_its_interface_knows():
    assert JOBSET["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert JOBSET["spec"].keys() == {"network", "failurePolicy", "replicatedJobs"}
    assert JOBSET["spec"]["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}
    assert REPLICATED.keys() == {"name", "replicas", "template"}
    (rule,) = JOBSET["spec"]["failurePolicy"]["rules"]
    assert rule.keys() == {"name", "action", "onJobFailureReasons"}


def test_one_pod_that_fails_ends_the_job_so_that_all_are_started_again():
    assert JOB["spec"]["backoffLimit"] == 0
    assert POD["spec"]["restartPolicy"] == "Never"
    assert JOBSET["spec"]["failurePolicy"]["maxRestarts"] > 0


def test_every_pod_has_the_tf_config_of_a_worker_of_one_cluster():
    index, tf_config = CONTAINER["env"]
    # Kubernetes puts in only what stands above.
    assert index["valueFrom"]["fieldRef"]["fieldPath"].endswith("['batch.kubernetes.io/job-completion-index']")
    count = JOB["spec"]["completions"]
    assert JOB["spec"]["parallelism"] == count
    assert JOB["spec"]["completionMode"] == "Indexed"
    for number in range(count):
        cluster = read_cluster(tf_config["value"].replace(f"$({index['name']})", str(number)))
        assert cluster.index == number
        host = f"{NAME}-{REPLICATED['name']}-0"
        assert list(cluster.workers) == [f"{host}-{i}.{NAME}:{_port()}" for i in range(count)]


def _port():
    (port,) = CONTAINER["ports"]
    return port["containerPort"]


def test_only_the_workers_reach_one_another():
    (policy,) = (document for document in NAMESPACE if document["kind"] == "NetworkPolicy")
    labels = POD["metadata"]["labels"]
    selectors = [policy["spec"]["podSelector"], policy["spec"]["ingress"][0]["from"][0]["podSelector"]]
    for selector in selectors:
        assert selector["matchLabels"].items() <= labels.items()


def test_names_and_volumes_belong_together():
    claims = {document["metadata"]["name"] for document in NAMESPACE if document["kind"] == "PersistentVolumeClaim"}
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == set(volumes)
    assert volumes["training"]["persistentVolumeClaim"]["claimName"] in claims
    assert {d["metadata"].get("namespace", d["metadata"]["name"]) for d in [*NAMESPACE, JOBSET]} == {"training"}
    rule = JOB["spec"]["podFailurePolicy"]["rules"][1]
    assert rule["onExitCodes"]["containerName"] == CONTAINER["name"]


def _config_of(arguments):
    spec = importlib.util.spec_from_file_location("multi_worker_train", FOLDER / "train.py")
    program = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = program  # where dataclasses and tyro look for it
    spec.loader.exec_module(program)
    return tyro.cli(program.Config, args=arguments)


def test_the_program_takes_the_arguments_of_the_manifest_and_of_the_readme():
    config = _config_of(CONTAINER["args"])
    mounts = [mount["mountPath"] for mount in CONTAINER["volumeMounts"]]
    for path in (config.data, config.output, config.training.checkpoint_folder):
        assert any(str(path).startswith(f"{mount}/") for mount in mounts)
    commands = re.findall(r"deploy/multi_worker/train\.py ((?:[^\n]|(?<=\\)\n)*)", (FOLDER / "README.md").read_text())
    assert len(commands) >= 3
    for command in commands:
        _config_of(shlex.split(command.replace("\\\n", " "), comments=True))
