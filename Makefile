# Two commands do all the set-up: `make demo` and `make test`. With uv on the PATH the install takes a third of the time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv does not read pip's setting for local wheels.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# One process more than there are cores: a third of the time, tests wait for processes that they started.
TESTERS := $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')
# The many processes that tests start would each compile our modules anew.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(if $(shell command -v uv),uv pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet)

.PHONY: demo test test-real lint types bench screenshots clean

demo: $(VENV)/installed
	$(BIN)/labeler demo

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -p no:schemathesis -n $(TESTERS) --dist loadfile --no-loadscope-reorder

# What is heavy or real and does not fit into five minutes: load, real LLM servers, real language models.
test-real: $(VENV)/installed-dev
	$(BIN)/python -m pytest -p no:schemathesis -m real

lint: $(VENV)/installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

bench: $(VENV)/installed-dev
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || { echo "labeler needs Python 3.11 to 3.13: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -c constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@

screenshots: $(VENV)/installed-dev
	$(BIN)/python docs/take_screenshots.py demo-out

clean:
	rm -rf $(VENV) demo-out
