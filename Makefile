# make run        sets everything up and builds, gates, publishes and registers examples/recipes/laptop.yaml
# make compile    writes the pipelines for a cluster to compiled/
# make test       sets everything up and runs the tests (under 10 minutes on 2 cores)
# make test-all   the long ones too: fault sweeps, every model family, root (under 75 minutes)
#
# TORCH_INDEX=URL   takes torch from another package index, for example the CPU-only one (README, "What is downloaded")
# PYTHON=python3.12 picks the Python; default: the first of python3.11, python3.12, python3

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do if command -v $$p >/dev/null && $$p -c '' 2>/dev/null; then echo $$p; break; fi; done)
RECIPE ?= examples/recipes/laptop.yaml
WORKSPACE ?= var/workspace
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test test-all lint types format setup compile benchmarks clean

run: $(READY)
	$(BIN)/enginepress run $(RECIPE) --workspace $(WORKSPACE)

test: $(READY)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow and not root and not ceph and not nfs"

test-all: $(READY)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --timeout 1800

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)
	$(BIN)/python scripts/typecheck.py

compile: $(READY)
	$(BIN)/enginepress compile --output compiled

benchmarks: $(READY)
	$(BIN)/python -m benchmarks.all

setup: $(READY)

$(READY): pyproject.toml constraints.txt scripts/check_machine.py
	@test -n "$(PYTHON)" || { echo "No Python found. Install Python 3.11 or 3.12 (Debian 12: apt install python3 python3-venv)."; exit 2; }
	@$(PYTHON) scripts/check_machine.py
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (once; what is downloaded stands in the README) ..."
	$(PIP) --upgrade pip
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(PIP) --constraint constraints.txt --editable ".[laptop,dev]"
	@touch $@

clean:
	rm -rf $(VENV) var .mypy_cache .ruff_cache .pytest_cache
