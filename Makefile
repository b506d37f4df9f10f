# The book and its library. `make help` lists what there is.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# Chapters, and tests, at a time: one a core, and four at the most, since each has a model of its own in memory.
JOBS ?= $(shell cores=$$(env -u OMP_NUM_THREADS nproc 2>/dev/null || sysctl -n hw.ncpu); echo $$((cores < 4 ? cores : 4)))
BOOK_STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test
# Errors only: pip warns of much that is no concern here. Python compiles what is imported, far less than is installed.
# The lists name every package with the hashes of its files: nothing else is downloaded, to build one neither.
PIP := $(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check --no-deps --no-build-isolation
LOCKED := $(PIP) --require-hashes -r
# The build for CPUs where pip finds one, else PyPI's own: on Linux that is the one for GPUs, of several GB.
TORCH := { said=$$($(LOCKED) locks/cpu.txt 2>&1) || { \
	printf '%s\n' "No build of torch for CPUs alone, so PyPI's own is taken: $$(printf '%s' "$$said" | tail -n 1)" >&2; \
	$(LOCKED) locks/gpu.txt; }; }

# Where this is set, every process compiles anew whatever it imports: fifteen seconds for torch and transformers.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help book test fuzz check architectures bench times lab lock clean clean-results

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

book: $(BOOK_STAMP) ## execute the chapters that changed and build the pages
	@$(BIN)/python -m personalib book --jobs $(JOBS)

test: $(TEST_STAMP) ## run the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

fuzz: $(TEST_STAMP) ## try every reader of files with damaged files, ten thousand times each
	@PYTHONPATH=. $(BIN)/python tests/fuzz.py --tries 10000

check: $(TEST_STAMP) ## lint code and notebooks, check the types, and print how thin the library is
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python tests/test_size.py

architectures: $(TEST_STAMP) ## try every causal architecture of transformers, and write the table of the book
	@$(BIN)/python tests/architectures.py --out book/architectures.csv

bench: $(TEST_STAMP) ## run the benchmarks
	@$(BIN)/python tests/benchmarks/feature_memory.py
	@mkdir -p results
	@$(BIN)/python tests/benchmarks/steering_grid.py --json results/bench.json

times: $(BOOK_STAMP) ## write data/benchmarks/chapters.json: how long the chapters of the last build took
	@$(BIN)/python tests/benchmarks/chapter_times.py

lab: $(BOOK_STAMP) ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

lock: ## write locks/ and environment.yml again after a change of pyproject.toml; LATEST=--latest takes the newest
	@test -x $(VENV)/lock/bin/uv || { $(PYTHON) -m venv $(VENV)/lock && \
		$(VENV)/lock/bin/python -m pip install -qq --disable-pip-version-check uv==0.13.9 packaging==26.4; }
	@PATH="$(abspath $(VENV)/lock/bin):$$PATH" $(VENV)/lock/bin/python .ci/lock.py $(LATEST)

clean: ## remove the built pages and the virtual environment, and keep results/
	@rm -rf book/_build $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
	@find personalib tests notebooks -name __pycache__ -prune -exec rm -rf {} +

clean-results: ## remove results/: editions, answers, sweeps, SAEs trained on the spot
	@rm -rf results

# The stamps are copies of what was installed: a new time stamp alone installs nothing.
BOOK_LISTS := pyproject.toml $(filter-out locks/test.txt,$(sort $(wildcard locks/*.txt)))
$(BOOK_STAMP): $(BOOK_LISTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 is needed, and $(PYTHON) is not it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: on Debian, apt-get install python3.11-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@cat $(BOOK_LISTS) | cmp -s - $@ || { \
		echo "Installing the pinned packages into $(VENV); the first time this takes a few minutes."; \
		$(LOCKED) locks/build.txt && $(LOCKED) locks/book.txt && $(TORCH) && $(PIP) --editable .; }
	@cat $(BOOK_LISTS) > $@

$(TEST_STAMP): $(BOOK_STAMP) locks/test.txt
	@cat $(BOOK_STAMP) locks/test.txt | cmp -s - $@ || $(LOCKED) locks/test.txt
	@cat $(BOOK_STAMP) locks/test.txt > $@
