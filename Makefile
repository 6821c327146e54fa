# Everything here needs Python 3.11 to 3.13, pip and a package registry; `make demo` and `make test` set up the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# What `make test-backends` uses: TensorFlow is there too, as the package needs it, and is not the backend.
BACKENDS_VENV ?= .venv-backends
BACKENDS_INSTALLED := $(BACKENDS_VENV)/.installed
BACKEND_TESTS := tests/test_masks.py tests/test_biases.py tests/test_conformance.py tests/ops tests/layers tests/models

.PHONY: help demo test test-backends lint format data clean

help:
	@echo "make demo     build the chatbot from public dialogues, export, verify, serve it and ask it"
	@echo "make test     run the tests"
	@echo "make test-backends     run those of masks, ops, layers and models on JAX and on PyTorch, in an environment of its own"
	@echo "make lint     check style and formatting"
	@echo "make format   mend what the linter can mend"
	@echo "make data     fetch the public data and weights that the demo and the tests use (84 MB, once)"
	@echo "make clean    remove the virtual environment and what was built"
	@echo "PYTHON=python3.12 VENV=.venv-3.12 make test     with another Python, in an environment of its own"

define set_up
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11 to 3.13 is needed, $(PYTHON) is `$(PYTHON) --version 2>&1`: make PYTHON=python3.12 ..."; exit 1; }
	@echo "setting up $(1) (some minutes the first time)"
	@$(PYTHON) -m venv $(1)
	@$(1)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[$(2)]'
	@touch $(1)/.installed
endef

$(INSTALLED): setup.cfg pyproject.toml
	$(call set_up,$(VENV),test)

$(BACKENDS_INSTALLED): setup.cfg pyproject.toml
	$(call set_up,$(BACKENDS_VENV),backends)

data: $(INSTALLED)
	@$(BIN)/python -m keras_attention.fetch > /dev/null

demo: data
	@$(BIN)/python -m applications.chatbot demo

test: data
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-backends: $(BACKENDS_INSTALLED)
	KERAS_BACKEND=jax $(BACKENDS_VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile $(BACKEND_TESTS)
	KERAS_BACKEND=torch $(BACKENDS_VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile $(BACKEND_TESTS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(BACKENDS_VENV) build runs *.egg-info .pytest_cache .ruff_cache .hypothesis
