# Each target does all set-up itself: the first one creates .venv from pyproject.toml and constraints.txt,
# and a stamp keeps the later ones from doing it again until one of these files changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHECKED := tnconv tests benchmarks examples

.PHONY: help setup demo test lint format types bench clean
.DEFAULT_GOAL := help

help: ## say what the targets do
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[test,dev]'
	@touch $@

setup: $(STAMP) ## create .venv with everything that the other targets need

demo: $(STAMP) ## compile every convolution of ResNet-18 for seven operations, check and time them
	$(BIN)/python benchmarks/demo.py

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest -n 2

lint: $(STAMP) ## check style and formatting
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)

format: $(STAMP) ## correct what `make lint` finds, where that is mechanical
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

types: $(STAMP) ## check types
	$(BIN)/mypy

bench: $(STAMP) ## measure against PyTorch, side by side
	$(BIN)/python benchmarks/bench.py

clean: ## remove everything that the other targets made
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
