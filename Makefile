# Everything here needs Python 3.11 to 3.13, pip and a package registry; `make demo` and `make test` set up the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo test lint format data clean

help:
	@echo "make demo     build the chatbot from public dialogues, export, verify, serve it and ask it"
	@echo "make test     run the tests"
	@echo "make lint     check style and formatting"
	@echo "make format   mend what the linter can mend"
	@echo "make data     fetch the public data and weights that the demo and the tests use (84 MB, once)"
	@echo "make clean    remove the virtual environment and what was built"
	@echo "PYTHON=python3.12 VENV=.venv-3.12 make test     with another Python, in an environment of its own"

$(INSTALLED): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11 to 3.13 is needed, $(PYTHON) is `$(PYTHON) --version 2>&1`: make PYTHON=python3.12 ..."; exit 1; }
	@echo "setting up $(VENV) (some minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

data: $(INSTALLED)
	@$(BIN)/python -m keras_attention.fetch > /dev/null

demo: data
	@$(BIN)/python -m applications.chatbot demo

test: data
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build runs *.egg-info .pytest_cache .ruff_cache .hypothesis
