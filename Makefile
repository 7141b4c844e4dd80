.PHONY: sweep test test-all lint conformance

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

sweep: $(VENV)/.installed
	$(BIN)/python -m trainer --multirun +sweep=quickstart

test: $(VENV)/.installed
	$(MAKE) --output-sync -j 2 lint conformance  # each has one core to do
	$(BIN)/pytest -n 3 --dist worksteal -m "not slow and not gpu" --ignore tests/hydra_plugins

conformance: $(VENV)/.installed
	$(BIN)/pytest -m "not slow and not gpu" tests/hydra_plugins  # in one process, without threads: sweeps within are forked

test-all: $(VENV)/.installed lint
	$(BIN)/pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# torch==2.13.0, exactly: anything looser pulls gigabytes of CUDA on a machine without a GPU.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0 -e '.[dev]'
	touch $@
