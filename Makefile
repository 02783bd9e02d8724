# Each target does all set-up itself: the first one creates .venv from pyproject.toml and constraints.txt,
# and a stamp keeps the later ones from doing it again until one of these files changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/.peers
DOCS := $(VENV)/.docs
CHECKED := tnconv tests benchmarks examples docs/pages

.PHONY: help setup demo test suites fuzz distributed plugin pages docs release-check lint format types bench bench-quick bench-compare bench-tensorised bench-models bench-sampled bench-large bench-distributed bench-any-size bench-prediction gpu clean
.DEFAULT_GOAL := help

help: ## say what the targets do
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[test,dev,suites]'
	@touch $@

setup: $(STAMP) ## create .venv with everything that the other targets need

demo: $(STAMP) ## compile every convolution of ResNet-18 for seven operations, check and time them
	$(BIN)/python benchmarks/demo.py

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest -n 2

suites: $(STAMP) ## run PyTorch's own tables of operators and modules, with tnconv in place of its functions (1 minute)
	$(BIN)/python tests/suites $(ARGS)

fuzz: $(STAMP) ## compile and check 10,000 random (layer, operation, options), about 40 minutes; `make fuzz ARGS="--seed 1"`
	$(BIN)/python -m tests.fuzz $(ARGS)

distributed: $(STAMP) ## all operations by all indices in two and four processes, and jobs that are killed (1 hour); `make distributed ARGS="--step 5"` a part
	$(BIN)/python -m tests.distributed $(ARGS)

plugin: $(STAMP) ## install examples/plugin into a folder of its own, as a distribution, and run its tests there
	rm -rf build/plugin examples/plugin/build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --target build/plugin ./examples/plugin
	cd examples/plugin && PYTHONPATH=$(CURDIR)/build/plugin $(CURDIR)/$(BIN)/python -m pytest -p no:cacheprovider

# The same kernels on every machine.
pages: export TNCONV_PROFILE = cpu
pages: $(STAMP) ## write what docs/ takes from tables and results, its pictures, and what its code prints
	$(BIN)/python -m docs.pages.operations_page docs/operations.md
	$(BIN)/python -m docs.pages.registry_page docs/reference/registry.md
	$(BIN)/python -m docs.pages.cli_page docs/reference/cli.md
	$(BIN)/python -m benchmarks.page docs/benchmarks.md
	$(BIN)/python -m benchmarks.prediction_page docs/concepts/prediction.md
	$(BIN)/python examples/pictures.py docs
	$(BIN)/python -m pytest tests/docs/test_docs_code.py --update-golden

docs: $(DOCS) ## build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(DOCS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[docs]'
	@touch $@

release-check: ## build wheel and sdist, and run them in empty environments, with the newest and the least versions
	PYTHON=$(PYTHON) .ci/release

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

bench-compare: $(STAMP) ## this tree against another commit, interleaved: `make bench-compare REV=HEAD~3 ARGS="--every 9"`
	$(BIN)/python -m benchmarks.compare $(REV) $(ARGS)

bench-models: $(PEERS) ## curvature of whole models beside curvlinops, singd, Opacus and torch.func (about 10 minutes)
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 $(BIN)/python -m benchmarks.models --out benchmarks --plot docs/models.svg $(ARGS)

bench-tensorised: $(PEERS) ## the same for factorised convolutions, beside the dense layer and tensorly-torch (about 5 minutes)
	$(BIN)/python -m benchmarks.tensorised --out benchmarks --plot docs/tensorised.svg $(ARGS)

bench-sampled: $(STAMP) ## time and error of sampled weight gradients, beside other ways of sampling (1 minute)
	$(BIN)/python -m benchmarks.sampled --out benchmarks $(ARGS)

bench-large: $(STAMP) ## networks of 50 to 5,000 tensors: planning beside cotengra alone, contraction, exact errors (5 minutes)
	$(BIN)/python -m benchmarks.large --out benchmarks $(ARGS)

bench-distributed: $(STAMP) ## one process against two of one thread each, and what a sharded call takes besides (1 minute)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.distributed --out benchmarks $(ARGS)

bench-any-size: $(STAMP) ## one function over 200 image sizes: first use, later calls, what is kept (2 minutes)
	$(BIN)/python -m benchmarks.any_size --every 9 $(ARGS)

bench-prediction: $(STAMP) ## predicted against measured times of every sixth layer's programs, and the page on them (1 minute)
	$(BIN)/python -m benchmarks.prediction --every 6 $(ARGS)
	$(BIN)/python -m benchmarks.prediction_page docs/concepts/prediction.md

gpu: ## on a machine with CUDA, PyTorch and no network: values, calibration, benchmark (8 minutes); `make gpu ARGS="--wheels FOLDER"`
	$(PYTHON) -m benchmarks.gpu $(ARGS)

clean: ## remove everything that the other targets made
	rm -rf $(VENV) build dist site *.egg-info examples/plugin/build examples/plugin/src/*.egg-info .hypothesis .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
