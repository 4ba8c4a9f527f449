# Each target sets itself up: it finds a Python, makes .venv, installs what it needs, and skips all that the next time.
# Another Python: make clean test PYTHON=/path/to/python3.12

SHELL := /bin/sh
PYTHON ?=
SEEDS ?= 2000
VENV := .venv
RUN := $(VENV)/bin
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench mutants simulate proof clean

help:  ## Show this list
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.ready-demo  ## Import 28,000 airports, killed five times, and prove that it made no difference
	@$(RUN)/python -m examples.airports.demo $(ARGS)

test: lint  ## Lint, check the types twice, then run every test
	@$(RUN)/python -m pytest -q $(ARGS)

lint: $(VENV)/.ready-dev  ## ruff, mypy --strict, pyright --strict
	@$(RUN)/ruff check
	@$(RUN)/ruff format --check
	@$(RUN)/mypy
	@$(RUN)/pyright --warnings

mutants: $(VENV)/.ready-dev  ## Plant mistakes in copies of the source, and show which test kills each (ARGS="words of a name")
	@$(RUN)/python -m tests.mutants.kill $(ARGS)

proof: $(VENV)/.ready-dev  ## All tests that count as evidence, with many more seeds, images and kills; half an hour
	@EVERSTEP_PROOF=1 $(RUN)/python -m pytest -q --evidence evidence.json $(ARGS) tests/powercuts tests/fuzz tests/mutants \
		tests/stores/test_differential.py tests/stores/test_postgres_cuts.py tests/processes tests/engine/test_many_timers.py \
		$(wildcard tests/simulation)

simulate: $(VENV)/.ready-dev  ## Play seeds of the deterministic simulation: make simulate SEEDS=20000
	@$(RUN)/python -m everstep.testing.simulate --seeds $(SEEDS) $(ARGS)

bench: $(VENV)/.ready-bench  ## Measure the disk's floor, everstep and its peers in one run
	@$(RUN)/python -m bench $(ARGS)

clean:  ## Remove everything that make, the tools and the tests left here
	@rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# One stamp per dependency group: a change of pyproject.toml installs again, nothing else does.
$(VENV)/.ready-%: pyproject.toml tools/set-up
	@tools/set-up $(VENV) $*
	@touch $@
