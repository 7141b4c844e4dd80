.PHONY: sweep test test-all lint conformance

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torch==2.13.0, exactly: anything looser pulls gigabytes of CUDA on a machine without a GPU.
PACKAGES := -c constraints.txt torch==2.13.0 -e '.[dev]'
# Half of the time of pip, whose settings it does not read: where else to look for wheels is passed on.
UV := UV_FIND_LINKS="$${PIP_FIND_LINKS-$$($(BIN)/pip config get global.find-links 2>/dev/null)}" $(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python

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

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q uv && $(UV) $(PACKAGES) || $(BIN)/pip install -q $(PACKAGES)
	touch $@
