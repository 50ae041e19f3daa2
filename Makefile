# Tools come from the active environment, or from .venv where there is one.
PATH := $(CURDIR)/.venv/bin:$(PATH)
SHELL := /bin/bash

.PHONY: check types lint fast unit lock format test cov quickstart crash long bench soak

BENCHMARKS ?= throughput overhead start-up crash-cost slots memory followed shared-log

check: types lint ## formatting, lint, types, and the house's walls; with --jobs 2, types beside the rest

types:
	mypy

lint:
	ruff format --check .
	ruff check .
	lint-imports

fast: ## what can be known within a minute: unit tests beside formatting, lint, types and walls
	$(MAKE) --no-print-directory --jobs 3 --output-sync check unit

unit:
	pytest -q -n 2 tests/unit

lock: ## configs/requirements.lock: every package of the container with its hashes; needs uv
	{ echo '# Packages of configs/Containerfile, by version and hash. `make lock` writes this file.'; \
	  echo 'hatchling>=1.24' | uv pip compile --quiet pyproject.toml - --extra metrics --extra otel --universal \
	  --python-version 3.12 --generate-hashes --no-header --no-annotate --no-emit-index-url; } > configs/requirements.lock

format:
	ruff format .
	ruff check --fix .

test:
	pytest

crash: ## the long form of the crash suite: about 1,000 kills, in 50 minutes
	pytest -n 0 tests/crash -m long --junit-xml=crash.xml -o junit_family=xunit1
	@grep -o 'name="kills" value="[0-9]*"' crash.xml | grep -o '[0-9]*' | awk '{ kills += $$1 } END { print kills " kills" }'

bench: ## about half an hour; BENCHMARKS="throughput slots" for some of them
	python -m benchmarks $(BENCHMARKS)

long: ## the long forms of other tests: 10,000 jobs of which 112 fail; public templates
	pytest -n 0 tests/unit tests/integration -m long

soak: ## a worker for ten minutes, batches and retries coming and going, and faults: memory, files, sockets, threads stay flat
	python -m tests.soak --minutes 10

quickstart:
	rm -rf quickstart.out
	batchrun run configs/quickstart.toml
