# What a contributor runs; CONTRIBUTING.md says when.
PYTHON ?= python

.PHONY: help check format test-fast test docs figures

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

check:  ## lint, format, types: seconds, half a minute the first time
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format:  ## put the code into shape
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

test-fast:  ## no real model, no browser, no notebook, no long run: two minutes on two cores
	$(PYTHON) -m pytest -m fast

test:  ## everything, as CI runs it: about 20 minutes on two cores
	$(PYTHON) -m pytest

docs:  ## the site
	$(PYTHON) -m mkdocs build --strict

figures:  ## tables and pictures of the studies, from their saved records
	$(PYTHON) -m figures
