# make run, make test: the two commands of the README. Each makes the environment it needs; a second call starts at once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: run test lint bench peers clean

run: $(VENV)/.installed
	$(BIN)/dse run htdemucs

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-test
	$(BIN)/python -m tests.benchmarks

peers: $(VENV)/.installed-test
	$(BIN)/python -m tests.peers
	$(BIN)/python -m tests.peers.systolic

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Chipfront needs Python 3.11 or newer: make run PYTHON=/path/to/python3" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing Chipfront into $(VENV) (once, a few minutes)"
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) -e '.[test]'
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.installed
	$(INSTALL) -e '.[lint]'
	@touch $@
