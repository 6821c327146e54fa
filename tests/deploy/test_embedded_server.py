"""The embedded server under the flags and files of deploy/: what can be run of them without the real server's image."""

import re
import socket
import subprocess
import urllib.request

import promql_parser
import pytest
import yaml

from keras_attention.serving.client import Client
from tests.deploy.files import DEPLOY, container, manifest, read_yaml, service
from tests.server_process import Server
from tests.serving.conftest import write_toy_version


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def rest_port(tmp_path_factory):
    """The REST port of a server of the Deployment's flags, with its folders moved to where the test may write."""
    folder = tmp_path_factory.mktemp("deployed")
    (folder / "models/chatbot").mkdir(parents=True)
    write_toy_version(folder / "models/chatbot", 1)
    (folder / "config").mkdir()
    for path in (DEPLOY / "serving").iterdir():
        text = path.read_text().replace('base_path: "/models/', f'base_path: "{folder}/models/')
        (folder / "config" / path.name).write_text(text)
    port = free_port()
    moved = [argument.replace("=/config/", f"={folder}/config/") for argument in container()["args"]]
    arguments = [argument for argument in moved if not argument.startswith(("--port=", "--rest_api_port="))]
    server = Server(None, "", folder / "log", f"--rest_api_port={port}", *arguments)
    try:
        server.wait_for_line()
        yield port
    finally:
        server.close()


@pytest.fixture(scope="module")
def page(rest_port):
    """The metrics after a request."""
    with Client(f"http://127.0.0.1:{rest_port}") as client:
        assert client.predict("chatbot", {"text": ["Hello"]})["folded"].tolist() == ["hello"]
    (job,) = read_yaml("prometheus.yml")["scrape_configs"]
    with urllib.request.urlopen(f"http://127.0.0.1:{rest_port}{job['metrics_path']}", timeout=10) as response:
        return response.read().decode()


def selectors(expression: str) -> list:
    found = []

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def expressions() -> list[str]:
    (group,) = read_yaml("alerts.yml")["groups"]
    return [rule["expr"] for rule in group["rules"]]


def test_every_metric_in_an_alert_is_on_the_servers_page(page):
    names = {selector.name for expression in expressions() for selector in selectors(expression)} - {"up"}
    assert len(names) == 3
    for name in names:
        assert re.search(rf"^{re.escape(name)}{{", page, re.MULTILINE), name


def test_every_label_in_an_alert_is_one_of_its_metric(page):
    # Added by Prometheus or by its functions, not by the server.
    of_prometheus = {"job"}
    for expression in expressions():
        labels = set().union(*(re.split(r",\s*", by) for by in re.findall(r"by \(([^)]*)\)", expression)))
        for selector in selectors(expression):
            wanted = labels | set(re.findall(r"(\w+)[=!]", str(selector.matchers)))
            line = next((line for line in page.splitlines() if line.startswith(f"{selector.name}{{")), "")
            assert wanted - of_prometheus <= set(re.findall(r'(\w+)="', line))


def test_the_adapters_series_is_on_the_servers_page(page):
    (rule,) = yaml.safe_load(manifest("ConfigMap", "prometheus-adapter")["data"]["config.yaml"])["rules"]
    name = promql_parser.parse(rule["seriesQuery"]).name
    assert re.fullmatch(rule["name"]["matches"], name)
    assert f'{name}{{model_name="chatbot",status="OK"}}' in page


@pytest.mark.parametrize(("model", "code"), [("chatbot", 0), ("other", 1)])
def test_the_health_check_tells_whether_a_model_is_in_service(rest_port, model, code):
    kind, *command = service("serving")["healthcheck"]["test"]
    assert kind == "CMD"
    command[-1] = command[-1].replace("/8501", f"/{rest_port}").replace("/chatbot/", f"/{model}/")
    assert subprocess.run(command, timeout=10).returncode == code


def test_the_probes_path_is_answered(rest_port):
    path = container()["readinessProbe"]["httpGet"]["path"]
    with urllib.request.urlopen(f"http://127.0.0.1:{rest_port}{path}", timeout=10) as response:
        assert response.status == 200
