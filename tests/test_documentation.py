"""What the documentation shows runs: the examples in docstrings and the Python in README.md."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import keras_attention.biases
import keras_attention.layers
import keras_attention.masks
import keras_attention.models
import keras_attention.ops
import keras_attention.text
import keras_attention.visualization

ROOT = Path(__file__).parent.parent
PACKAGES = [
    keras_attention.layers,
    keras_attention.models,
    keras_attention.ops,
    keras_attention.text,
    keras_attention.visualization,
]
MODULES = ["keras_attention.masks", "keras_attention.biases", "keras_attention.conformance"]
MODULES += [f"{p.__name__}.{module.name}" for p in PACKAGES for module in pkgutil.iter_modules(p.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_a_modules_docstrings_run_as_shown(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert failed == 0


def test_every_public_name_has_an_example():
    without = [
        f"{package.__name__}.{name}"
        for package in PACKAGES
        for name in package.__all__
        if isinstance(getattr(package, name), type) and ">>>" not in (getattr(package, name).__doc__ or "")
    ]
    assert not without


@pytest.mark.parametrize(
    "page", ["README.md", "keras_attention/layers/README.md", "keras_attention/training/README.md"]
)
def test_the_python_on_a_page_runs(page, tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
        shown = re.findall(r"# prints (.*)", block)
        printed = capsys.readouterr().out
        for line in shown:
            assert line in printed
