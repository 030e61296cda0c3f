# From nothing but Python and make: `make quickstart` sets up and runs the main job, `make test` sets up and tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
QUIET := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help install quickstart test check sabotage mutate docs clean

help:                  ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1: /p' Makefile

install: $(STAMP)      ## the package and its tools, in .venv

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "trueup needs Python 3.11 or later; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch -c constraints.txt
	$(BIN)/python -m pip install --quiet -e '.[dev]' -c constraints.txt
	touch $(STAMP)

quickstart: $(STAMP)   ## SFT, reward model, three arms, report; goes on where it was stopped
	$(BIN)/trueup quickstart --resume

test: $(STAMP)         ## all tests, on two processes
	$(QUIET) $(BIN)/python -m pytest -n 2 --dist worksteal

check: $(STAMP)        ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

sabotage: $(STAMP)     ## break the code in many ways; some test must catch each
	$(QUIET) $(BIN)/python tests/sabotage/run.py

mutate: $(STAMP)       ## mutation testing of ops, optimizers and stats
	$(BIN)/python -m pip install --quiet -e '.[mutation]' -c constraints.txt
	$(QUIET) $(BIN)/python tests/sabotage/mutate.py

docs: $(STAMP)         ## the pages that are made from the code
	$(BIN)/python docs/build.py

clean:                 ## what was installed and built; runs stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
