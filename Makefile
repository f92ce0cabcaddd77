# `make demo` and `make test` are all there is to set up: each brings what it needs on a fresh Debian or Ubuntu.

SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Empty: the newest versions that pyproject.toml allows, instead of requirements.lock.
LOCKED ?= yes
STAMP := $(VENV)/.installed
MATRICES := $(addprefix tests/nodes/test_,crash.py crash_components.py faults.py host_faults.py)


export PARTS PAGE

.PHONY: demo test test-newest quick check unit nodes gpu exhaustive bench fuzz format docs lock clean

## The main job on a throwaway broken host: audited, mended, proven, audited again.
demo: $(STAMP)
	@$(BIN)/python -m tests.nodes.demo

## Everything that CI runs: style, types, tests on this machine and on booted hosts. All stages run, whatever the first says.
test: $(STAMP)
	@MAKE=$(MAKE) tools/stages check unit nodes

## The same with the newest versions that pyproject.toml allows instead of the locked ones, in an environment of its own.
test-newest:
	@$(MAKE) VENV=.venv-newest LOCKED= test

## What whoever works on it runs all the time: style, types, and the unit tests without the properties' examples.
quick: check
	$(BIN)/python -m pytest -q -n 2 -m 'not fuzz' tests/unit

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy -p tests.nodes -p tests.hostile -p tests.gpu

unit: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 tests/unit tests/scripts

## Three at once on two cores: most of the time a node waits for its daemons.
nodes: $(STAMP)
	$(BIN)/python -m pytest -q -n 3 --dist loadfile -m 'not exhaustive' tests/nodes tests/hostile

## A kill at every step and every fault of a host, on each Debian suite, and what is marked exhaustive: more than an hour on two
## cores. Bookworm's Docker 20.10 reloads where the newer ones are restarted, so that what is told of restarts is not its.
exhaustive: $(STAMP)
	@status=0; for suite in trixie sid; do \
	  echo "== $$suite"; \
	  GPUMEND_SUITE=$$suite $(BIN)/python -m pytest -q -n 2 --dist loadfile $(MATRICES) || status=1; \
	done; \
	echo "== bookworm"; \
	GPUMEND_SUITE=bookworm $(BIN)/python -m pytest -q -n 2 tests/nodes/test_crash.py -k killed || status=1; \
	echo "== marked exhaustive"; \
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m exhaustive tests/nodes tests/hostile || status=1; \
	exit $$status

## The whole claim on a real GPU, as root (tests/gpu): PARTS=DIR brings what the machine lacks, PAGE=FILE gets the truth table.
gpu: $(STAMP)
	$(BIN)/python -B -m tests.gpu

## 2,000 examples of every property; each one's count is printed.
fuzz: $(STAMP)
	GPUMEND_FUZZ_EXAMPLES=2000 $(BIN)/python -m pytest -q -n 2 -m fuzz tests/unit

## Speed beside floors and peers; writes docs/bench.md, .json and .svg. Takes most of an hour and wants a quiet machine.
bench: $(STAMP)
	$(BIN)/python -m tests.bench

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml requirements.lock tools/prerequisites
	@tools/prerequisites
	@python=$(PYTHON); $${python:-python3} -m venv --clear $(VENV)
ifneq ($(LOCKED),)
	@$(PIP) install -qq --require-hashes -r requirements.lock
	@$(PIP) install -qq --no-deps --no-build-isolation -e .
else
	@$(PIP) install -qq --upgrade -e '.[test,docs]'
endif
	@touch $@

## The site of docs/ in site/: no outside resources, searched offline. tests/scripts/test_docs.py builds it, too.
docs: $(STAMP)
	$(BIN)/python -m mkdocs build --strict

## Renews requirements.lock from pyproject.toml.
lock:
	@tools/lock

clean:
	rm -rf $(VENV) .venv-newest .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
