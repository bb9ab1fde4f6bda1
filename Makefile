# What a developer needs. Nothing has to be installed before but make and Python 3.11 or newer.

PYTHON ?= python3
DEMO ?= 1
SOAK_S ?= 600
BENCH ?= full

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# With no address of a package index and no path, so not only for this machine.
COMPILE := $(BIN)/python -m piptools compile pyproject.toml --quiet --no-header \
    --generate-hashes --allow-unsafe --strip-extras \
    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

# Tests start hundreds of processes, each of which would compile all of it anew.
unexport PYTHONDONTWRITEBYTECODE

# Tests mostly wait for servers of their own, so that some of them run side by side.
BESIDE := --numprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## Show what there is to make.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: $(INSTALLED) ## Run it all on embedded servers, with a demo that publishes; DEMO=0: without.
	@$(BIN)/faust -A streams.app run $(if $(filter 0 no false,$(DEMO)),--no-demo)

.PHONY: test
test: $(INSTALLED) ## Run the unit and integration tests, on servers of their own.
	@$(BIN)/python -m pytest $(BESIDE) tests/unit tests/integration

.PHONY: test-faults
test-faults: $(INSTALLED) ## Run the tests that kill, freeze and cut off what they can.
	@$(BIN)/python -m pytest $(BESIDE) -m "not alone" tests/faults
	@$(BIN)/python -m pytest -m alone tests/faults

.PHONY: fuzz
fuzz: $(INSTALLED) ## Have 100,000 payloads that nobody would send read, and as many sent.
	@$(BIN)/python -m pytest tests/unit/test_fuzz.py tests/faults/test_fuzz.py

.PHONY: soak
soak: $(INSTALLED) ## Run ten minutes under load and faults, then settle the account; SOAK_S=60: one.
	@$(BIN)/python -m tests.soak --duration-s $(SOAK_S)

.PHONY: test-browser
test-browser: $(INSTALLED) ## Run the tests of the page in a Chromium, which apt-get installs if need be.
	@if ! command -v chromium > /dev/null || ! command -v chromedriver > /dev/null; then \
	    command -v apt-get > /dev/null || { \
	        echo "install chromium and chromedriver: there is no apt-get here to do it" >&2; exit 1; }; \
	    if [ "$$(id -u)" -eq 0 ]; then root=; \
	    elif sudo -n true 2> /dev/null; then root="sudo -n"; \
	    else echo "install chromium and chromium-driver: neither root nor sudo here to do it" >&2; \
	        exit 1; fi; \
	    echo "installing chromium (once) ..."; \
	    { $$root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$root apt-get install -y -qq \
	        --no-install-recommends chromium chromium-driver; } > $(VENV)/chromium.log 2>&1 || { \
	        tail -n 20 $(VENV)/chromium.log >&2; \
	        echo "chromium cannot be installed; $(VENV)/chromium.log says more" >&2; exit 1; }; \
	fi
	@$(BIN)/python -m pytest tests/browser

.PHONY: test-pure-python
test-pure-python: $(INSTALLED) ## Run the transport's tests on Faust's iterator without Cython.
	@NO_CYTHON=1 $(BIN)/python -m pytest $(BESIDE) tests/integration/transport

.PHONY: lint
lint: $(INSTALLED) ## Check style, format, types and which package may import which.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

.PHONY: bench
bench: $(INSTALLED) ## Measure against peers and targets, in twenty minutes; BENCH=quick: two minutes.
	@BENCH=$(BENCH) $(BIN)/python -m benchmarks --json .data/bench.json

.PHONY: constraints
constraints: $(INSTALLED) ## Write constraints.txt (to run) and constraints-dev.txt (and to work) anew.
	@$(BIN)/python -m pip install --quiet "pip-tools>=7.5"
	@echo "resolving what pyproject.toml asks for ..."
	@$(COMPILE) --upgrade --all-extras --output-file $(VENV)/constraints-dev.txt > /dev/null
	@cp $(VENV)/constraints-dev.txt $(VENV)/constraints.txt
	@$(COMPILE) --output-file $(VENV)/constraints.txt > /dev/null
	@for name in constraints constraints-dev; do \
	    { echo "# All that is installed, exactly, with the hashes that pip compares."; \
	      echo "# Made by \`make constraints\` from pyproject.toml: change versions there."; \
	      cat $(VENV)/$$name.txt; } > $$name.txt; \
	    rm $(VENV)/$$name.txt; \
	    echo "wrote $$name.txt"; done

$(INSTALLED): constraints-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "Python 3.11 or newer is needed, and $(PYTHON) is" \
	        "$$($(PYTHON) --version 2>&1 | head -n 1); choose another: make PYTHON=python3.12" >&2; exit 1; }
	@echo "installing into $(VENV) (once, and when constraints-dev.txt or pyproject.toml change) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --require-hashes -r constraints-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --no-deps --no-build-isolation -e .
	@touch $@
