# Fuseline. `make` alone says what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))
BIN := .venv/bin
STATE ?= state

.PHONY: help install run test test-all check bench docs lock clean
help: ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.venv/.run: requirements/run.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed, $(PYTHON) is older"; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing: apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes --no-deps -r requirements/run.txt
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev: .venv/.run requirements/dev.txt
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes --no-deps -r requirements/dev.txt
	@touch $@

install: .venv/.run ## build .venv from the hash-pinned requirements

run: .venv/.run ## the main job: a development fleet from boot to an attested update (Ctrl-C ends it)
	@$(BIN)/fuseline up --state $(STATE)

test: .venv/.dev apt ## all tests but the long sweeps
	$(BIN)/python -m pytest -m "not sweep"

test-all: .venv/.dev apt ## all tests, long sweeps too
	$(BIN)/python -m pytest

.PHONY: apt
apt: # real clients for tests; without apt or root their tests skip and say so
	@tools/apt.sh curl openssl chromium qemu-system-arm

check: .venv/.dev ## ruff, strict types, import rule, lengths, documents, the frozen ROM
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/house.py
	$(BIN)/python tools/chip.py check

bench: .venv/.dev ## every performance claim beside its peer or limit
	$(BIN)/python -m benchmarks

docs: .venv/.dev ## check the documents and list them
	$(BIN)/python tools/house.py
	@ls *.md docs/*.md docs/adr/*.md

lock: ## write requirements/*.txt anew (needs uv)
	tools/lock.sh

clean: ## remove what the targets above made, except state folders
	rm -rf .venv .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
