# From nothing but Python and make: `make quickstart` sets up and runs the main job, `make test` sets up and tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart test check sabotage mutate docs clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch -c constraints.txt
	$(BIN)/python -m pip install --quiet -e '.[dev]' -c constraints.txt
	touch $(STAMP)

quickstart: $(STAMP)   ## SFT, reward model, three arms, report: about five minutes on two cores
	$(BIN)/trueup quickstart

test: $(STAMP)         ## all tests, on two processes
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n 2 --dist worksteal

check: $(STAMP)        ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

sabotage: $(STAMP)     ## break the code in many ways; some test must catch each
	OMP_NUM_THREADS=1 $(BIN)/python tests/sabotage/run.py

mutate: $(STAMP)       ## mutation testing of ops, optimizers and stats
	OMP_NUM_THREADS=1 $(BIN)/python tests/sabotage/mutate.py

docs: $(STAMP)         ## the pages that are made from the code
	$(BIN)/python docs/build.py

clean:
	rm -rf $(VENV) runs build dist
