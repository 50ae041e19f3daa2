# Tools come from the active environment, or from .venv where there is one.
PATH := $(CURDIR)/.venv/bin:$(PATH)
SHELL := /bin/bash

.PHONY: check format test cov quickstart crash

check: ## formatting, lint, types, and the house's walls
	ruff format --check .
	ruff check .
	mypy
	lint-imports

format:
	ruff format .
	ruff check --fix .

test:
	pytest

crash: ## the long form of the crash suite: more than 1,000 kills
	pytest tests/crash -m long --no-header

quickstart:
	rm -rf quickstart.out
	batchrun run configs/quickstart.toml
