# Two commands do all the set-up: `make demo` and `make test`. With uv on the PATH the install takes a third of the time.
PYTHON ?= python3
VENV := .venv
BIN = $(VENV)/bin
# uv does not read pip's setting for local wheels.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# One process more than there are cores: a third of the time, tests wait for processes that they started.
TESTERS := $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')
# The many processes that tests start would each compile our modules anew.
unexport PYTHONDONTWRITEBYTECODE
INSTALL = $(if $(shell command -v uv),uv pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet)
# Of packages, and of what builds ours: pip before 25.3 reads the first variable for both.
LOCKED := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt UV_CONSTRAINT=constraints.txt UV_BUILD_CONSTRAINT=constraints.txt
PYTEST := -m pytest -p no:schemathesis
PARALLEL := -n $(TESTERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-latest test-real lock lint types docs bench screenshots clean

demo: $(VENV)/installed
	$(BIN)/labeler demo

test: $(VENV)/installed-dev
	$(BIN)/python $(PYTEST) $(PARALLEL)

# Instead of the lock the newest versions that pyproject.toml allows, and every deprecation is an error.
# The newest torch may be a CUDA build of several GB: the locked one stays, unless asked for with `make test-latest TORCH=torch`.
test-latest: VENV := .venv-latest
test-latest: TORCH ?= $(shell grep '^torch==' constraints.txt)
test-latest:
	$(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) -e '.[service,dev]' '$(TORCH)'
	$(BIN)/python $(PYTEST) $(PARALLEL) -W error::DeprecationWarning -W error::PendingDeprecationWarning -W error::FutureWarning \
		--deselect tests/test_lock.py::test_what_is_installed_is_what_the_lock_names

# What is heavy or real and does not fit into five minutes: load, real LLM servers, real language models.
test-real: $(VENV)/installed-dev
	$(BIN)/python $(PYTEST) -m real

lint: $(VENV)/installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

# Written without index addresses, hashes and local versions, so that pip and uv take it anywhere. torch moves by hand: change
# its line, then `make lock`. The libraries of its CUDA builds are left to it, since they differ from build to build.
lock: $(BIN)/python
	$(INSTALL) uv
	grep '^torch==' constraints.txt | UV_FIND_LINKS= $(BIN)/uv pip compile pyproject.toml --constraints - --universal --python-version 3.11 \
		--all-extras --group api --group build --upgrade --no-header --no-annotate --quiet --output-file $(VENV)/resolved.txt
	{ echo '# Written by `make lock`: change pyproject.toml, not this file. Only the version of torch is set here.'; \
		grep -vE '^(nvidia|cuda|triton)\b' $(VENV)/resolved.txt; } > constraints.txt

# The documentation as a site, in build/site.
docs: $(VENV)/installed-dev
	$(LOCKED) $(INSTALL) -e '.[docs]'
	$(BIN)/mkdocs build --quiet

bench: $(VENV)/installed-dev
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || { echo "labeler needs Python 3.11 to 3.13: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python pyproject.toml constraints.txt
	$(LOCKED) $(INSTALL) -e '.[service]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(LOCKED) $(INSTALL) -e '.[service,dev]'
	@touch $@

screenshots: $(VENV)/installed-dev
	$(BIN)/python docs/take_screenshots.py demo-out

clean:
	rm -rf $(VENV) .venv-latest demo-out
