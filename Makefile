# frictionstore: `make help` lists what there is. The first target that needs it makes .venv.

PYTHON ?= python3
RECIPE ?= digits-speckle
STORE ?= data/$(RECIPE).zarr
RESULTS ?= results/$(RECIPE)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help extract analyze view page test test-all test-lowest lint bench docs torture release-check clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  RECIPE=NAME chooses the extraction job (now $(RECIPE)); EXTRACT_FLAGS adds options to it."
	@echo "  ANALYZE_FLAGS=--overwrite replaces results of an earlier store."

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11: name another with PYTHON=..." >&2; exit 2; }
	@echo "making $(VENV) ..." >&2
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/extract: $(VENV)/made pyproject.toml constraints.txt
	@echo "installing frictionstore with what extraction needs (once; torch is large) ..." >&2
	@$(PIP) -e '.[extract]'
	@touch $@

$(VENV)/dev: $(VENV)/extract
	@echo "installing what the tests need (once) ..." >&2
	@$(PIP) -e '.[extract,remote,dev]'
	@touch $@

extract: $(VENV)/extract ## run the encoder over a data set and write the store
	@$(BIN)/frictionstore extract --recipe $(RECIPE) $(EXTRACT_FLAGS)

analyze: $(VENV)/extract ## all analyses of the store, extracted if it is not there, and the report
	@case '$(STORE)' in *://*) ;; *) test -e '$(STORE)' || $(MAKE) --no-print-directory extract ;; esac
	@$(BIN)/frictionstore analyze all $(STORE) --out $(RESULTS) $(ANALYZE_FLAGS)
	@printf 'report at '; $(BIN)/frictionstore report $(STORE) --results $(RESULTS)

page: $(VENV)/made ## the explorer page (Node 20 or newer with npm)
	@$(BIN)/python -m frictionstore.show.page

view: $(VENV)/extract ## look at the store in the browser
	@[ -e $(STORE) ] || $(MAKE) --no-print-directory extract
	@$(BIN)/frictionstore view $(STORE)

test: $(VENV)/dev page ## the test suite without the slow tests
	@$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile $(PYTEST_FLAGS)

test-all: $(VENV)/dev page ## the test suite with the slow tests
	@$(BIN)/python -m pytest $(PYTEST_FLAGS)

LOWEST := $(VENV)/lowest

$(LOWEST)/made: $(VENV)/made pyproject.toml
	@echo "installing the lowest declared versions, without torch ..." >&2
	@$(BIN)/python -m venv --clear $(LOWEST)
	@$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct -e '.[remote,dev]'
	@touch $@

# Old versions use what newer ones deprecate: a warning is no error here.
test-lowest: $(LOWEST)/made ## the tests that need no torch, on the lowest declared versions
	@FRICTIONSTORE_LOWEST=1 $(LOWEST)/bin/python -m pytest -m "not slow" -W default $(PYTEST_FLAGS) \
	  tests/format tests/io tests/store tests/check tests/analyses tests/packaging tests/cli/test_cli.py

lint: $(VENV)/dev ## formatter, linter and type checker
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@if [ -d explorer/node_modules ]; then cd explorer && npm run --silent check; fi

$(VENV)/bench: $(VENV)/dev
	@$(PIP) -e '.[extract,remote,dev,bench]'
	@touch $@

bench: $(VENV)/bench ## benchmarks: results under benchmarks/results, tables in docs/performance.md
	@for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done
	@$(BIN)/python benchmarks/make_tables.py

$(VENV)/docs: $(VENV)/dev
	@echo "installing what the documentation site is made with (once) ..." >&2
	@$(PIP) -e '.[extract,remote,dev,docs]'
	@touch $@

docs: $(VENV)/docs ## the documentation site, in site/: pages, API, notebooks; any warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "site at site/index.html (search needs a server: $(BIN)/python -m http.server -d site)"

torture: $(VENV)/dev ## the whole torture bench (minutes)
	@$(BIN)/python -m pytest tests/torture --torture-full -s

release-check: $(VENV)/dev ## build the last commit and use its wheel on Python 3.11, 3.12 and 3.13
	@$(BIN)/python tools/release_check.py

clean: ## remove .venv, caches and built pages; stores and results stay
	@rm -rf $(VENV) frictionstore/explorer_page explorer/node_modules build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
