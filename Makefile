# Every target makes its own virtual environment first; it is made once and reused.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.run-installed
DEV := $(VENV)/.dev-installed

.PHONY: demo test lint format study clean

demo: $(RUN)
	$(BIN)/python -m experiments.run_all --config=configs/tiny.py --workdir=runs/demo

study: $(RUN)
	$(BIN)/python -m experiments.run_all --config=configs/study.py --workdir=runs/study

test: $(DEV)
	G2IS_REQUIRE_PARITY=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) runs

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(RUN): requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

$(DEV): requirements-dev.txt requirements-parity.txt | $(RUN)
	$(BIN)/python -m pip install --quiet -r requirements-parity.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@
