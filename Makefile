# The book and its library. `make help` lists what there is.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# Chapters at a time, as in `make book JOBS=2`: each has a model of its own, and its share of the cores.
JOBS ?= 1
BOOK_STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test
# Errors only: pip warns of much that is no concern here. Python compiles what is imported, far less than is installed.
PIP := $(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check

# Where this is set, every process compiles anew whatever it imports: fifteen seconds for torch and transformers.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help book test check bench lab clean clean-results

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

book: $(BOOK_STAMP) ## execute the chapters that changed and build the pages
	@$(BIN)/python -m personalib book --jobs $(JOBS)

test: $(TEST_STAMP) ## run the tests
	@$(BIN)/python -m pytest

check: $(TEST_STAMP) ## lint code and notebooks, and check the types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(TEST_STAMP) ## run the benchmarks
	@$(BIN)/python tests/benchmarks/feature_memory.py
	@mkdir -p results
	@$(BIN)/python tests/benchmarks/steering_grid.py --json results/bench.json

lab: $(BOOK_STAMP) ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

clean: ## remove the built pages and the virtual environment, and keep results/
	@rm -rf book/_build $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
	@find personalib tests notebooks -name __pycache__ -prune -exec rm -rf {} +

clean-results: ## remove results/: editions, answers, sweeps, SAEs trained on the spot
	@rm -rf results

# The stamps are copies of what was installed: a new time stamp alone installs nothing.
$(BOOK_STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 is needed, and $(PYTHON) is not it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: on Debian, apt-get install python3.11-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@cmp -s pyproject.toml $@ || { \
		echo "Installing the pinned packages into $(VENV); the first time this takes a few minutes."; \
		$(PIP) --editable .; }
	@cp pyproject.toml $@

# This one is a copy of both lists, one after the other: a change of either installs both.
$(TEST_STAMP): $(BOOK_STAMP) tests/peers.txt
	@cat pyproject.toml tests/peers.txt | cmp -s - $@ || { \
		$(PIP) --editable '.[test]' && $(PIP) --no-deps -r tests/peers.txt; }
	@cat pyproject.toml tests/peers.txt > $@
