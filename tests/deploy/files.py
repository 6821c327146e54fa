"""The files of deploy/, as the tests read them."""

from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def read_yaml(name: str):
    return yaml.safe_load((DEPLOY / name).read_text())


def manifests() -> list[dict]:
    """Every object of deploy/kubernetes."""
    return [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]


def manifest(kind: str, name: str = "serving") -> dict:
    """The object of this kind and name."""
    (found,) = (m for m in manifests() if (m["kind"], m["metadata"]["name"]) == (kind, name))
    return found


def pod() -> dict:
    """The pod that the Deployment makes."""
    return manifest("Deployment")["spec"]["template"]


def container() -> dict:
    return pod()["spec"]["containers"][0]


def service(name: str) -> dict:
    """A service of the compose file."""
    return read_yaml("compose.yaml")["services"][name]
