# Every task of this repository. `make` alone lists them.
# Set-up happens by itself, and again when a lock or a pyproject.toml has changed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Nothing of the caller's Python may leak into ours.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV

bin := .venv/bin
projects := $(wildcard */pyproject.toml)
JOBS ?= 2

.PHONY: help demo test lint bench ci fmt lock clean readme vectors docs setup

help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.stamp-run ## Start a service, have it process a few work orders, stop it
	@$(bin)/python scripts/demo.py

setup: .venv/.stamp-dev ## Make .venv with everything in it; the other tasks do so themselves

test: .venv/.stamp-dev ## Run the tests; ARGS='-k receipt -x' passes options on, JOBS=8 runs more at a time
	$(bin)/pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: .venv/.stamp-dev ## Check style, formatting, types, import contracts and the rules of the house
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports
	$(bin)/python scripts/check_house.py
	$(bin)/python scripts/make_settings_doc.py --check
	$(bin)/python scripts/make_openrpc.py --check

readme: .venv/.stamp-dev ## Run the commands that README.md shows and compare what they print
	$(bin)/python scripts/check_readme.py

vectors: .venv/.stamp-dev ## Check that the committed vectors are what the code makes
	$(bin)/python scripts/make_vectors.py --check

docs: .venv/.stamp-dev ## Make the API documentation, in build/api
	$(bin)/python scripts/make_api_docs.py

ci: ## Everything that must pass before a change is merged
	@scripts/test_tools.sh
	@$(MAKE) lint
	@$(MAKE) vectors
	@$(MAKE) readme
	@$(MAKE) docs
	@$(MAKE) test

bench: .venv/.stamp-dev ## Measure
	$(bin)/python bench/bench.py $(ARGS)

fmt: .venv/.stamp-dev ## Format the code and mend what can be mended by itself
	$(bin)/ruff check --fix-only --quiet .
	$(bin)/ruff format .

lock: .venv/.stamp-dev ## Write requirements/*.txt anew; ARGS=--upgrade takes the newest versions
	scripts/lock.sh $(ARGS)

clean: ## Remove .venv and everything else that was made here
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.stamp-run: requirements/run.txt requirements/build.txt requirements/uv.txt scripts/setup.sh $(projects)
	@scripts/setup.sh run

.venv/.stamp-dev: requirements/dev.txt requirements/uv.txt scripts/setup.sh $(projects)
	@scripts/setup.sh dev
