# Thin names over the command `genbook`; README.md says what they do.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# One thread a process and the same hashes everywhere: what chapters print must repeat.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONHASHSEED=0
PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest
SOURCES := genbook chapters tests

.PHONY: help book test lint types unit smoke pages chromium clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

book: $(READY) ## everything: environment, data, runs, static book in _build/html
	$(BIN)/genbook book

test: $(READY) chromium ## everything that a maintainer wants checked, as below, two at a time
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint types unit smoke pages

lint: $(READY) ## format and style of library, chapters and tests
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: $(READY) ## types of the library
	$(BIN)/mypy

unit: $(READY) ## tests of the library
	$(PYTEST) tests --ignore=tests/chapters --ignore=tests/site

smoke: $(READY) ## every chapter at smoke by papermill and as a script, and nbval strict
	$(BIN)/genbook run --all --profile smoke --timeout 600
	$(PYTEST) tests/chapters

pages: $(READY) chromium ## the built site, in a real browser too
	$(PYTEST) tests/site

chromium: ## the browser for the tests of pages
	.ci/chromium

clean: ## remove pages and short runs; environment, data, long and paper runs stay
	rm -rf _build/html* _build/scratch _build/runs/*-smoke-* _build/runs/*-book-*

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "genbook needs Python 3.11 or later, and %s is %s: make PYTHON=python3.11 ..." \
	    % (sys.executable, sys.version.split()[0]))'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
