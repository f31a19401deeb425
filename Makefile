# Everything a target needs is set up by it: a fresh clone needs Python 3.11 or newer, make, and nothing else.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

# Tests are spread over so many processes; one computes with one thread then.
JOBS ?= 2

.PHONY: help demo test fast lint type format bench docs clean real repro

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

# constraints.txt locks the versions that were tested together; on Linux with a package index of CPU builds they stay small.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/installed  ## Simulate, train, cluster, explain, plot: two minutes, into ./ecgscale-demo
	$(BIN)/ecgscale demo ecgscale-demo

# A deadline may pass because of what runs beside a test: what failed is tried once more, alone, and has to pass then.
test: .venv/installed-dev  ## Lint, types and all tests, the slow tier and the fast one
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS) --durations=40 || $(BIN)/python -m pytest --last-failed --last-failed-no-failures=none

fast: .venv/installed-dev  ## The fast tier of the tests: no servers, clusters, whole jobs
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

lint: .venv/installed-dev  ## Style, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed-dev  ## Style, applied
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: .venv/installed-dev  ## Static types
	$(BIN)/mypy

bench: .venv/installed-dev  ## All benchmarks side by side; writes docs/benchmarks.md and benchmarks/results/
	$(BIN)/python -m benchmarks

docs: .venv/installed-dev  ## Run every command that the documentation prints
	$(BIN)/python -m pytest tests/e2e/test_documentation.py

real: .venv/installed-dev  ## The main job on the real recordings that ECGSCALE_TEST_DATA names (half an hour)
	$(BIN)/python -m benchmarks.real_recordings

# `make repro PTBXL=path` or CODE15=path; OUT=folder, and REPRO="--folds 9 --device cuda" for more options of the job.
repro: .venv/installed  ## The published experiment again: PTBXL=folder or CODE15=folder of the release
	$(BIN)/python jobs/reproduce.py $(if $(PTBXL),--ptbxl "$(PTBXL)") $(if $(CODE15),--code15 "$(CODE15)") \
		--out "$(or $(OUT),reproduction)" $(REPRO)

clean:  ## Remove the environment and what demo and tests left
	rm -rf .venv ecgscale-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
