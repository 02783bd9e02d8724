# Each target does all set-up itself: the first one creates .venv from pyproject.toml and constraints.txt,
# and a stamp keeps the later ones from doing it again until one of these files changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/.peers
CHECKED := tnconv tests benchmarks examples

.PHONY: help setup demo test docs lint format types bench clean
.DEFAULT_GOAL := help

help: ## say what the targets do
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[test,dev]'
	@touch $@

setup: $(STAMP) ## create .venv with everything that the other targets need

demo: $(STAMP) ## compile every convolution of ResNet-18 for seven operations, check and time them
	$(BIN)/python benchmarks/demo.py

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest -n 2

docs: $(STAMP) ## write docs/operations.md from the tables of operations, conventions and layers
	$(BIN)/python -m tnconv.ops.page docs/operations.md

lint: $(STAMP) ## check style and formatting
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)

format: $(STAMP) ## correct what `make lint` finds, where that is mechanical
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

types: $(STAMP) ## check types
	$(BIN)/mypy

$(PEERS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[peers]'
	@touch $@

bench: $(PEERS) ## measure every operation of every layer against PyTorch and the other packages, side by side
	$(BIN)/python -m benchmarks.bench $(ARGS)

bench-quick: $(PEERS) ## the same in a minute, for a few layers
	$(BIN)/python -m benchmarks.bench --every 9 --rounds 7 --seconds 0.1 --no-memory $(ARGS)

clean: ## remove everything that the other targets made
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
