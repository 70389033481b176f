# Every target sets up what it needs in .venv, once. `make help` lists the targets.
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help compare reproduce test mutants lint wheel docs docs-serve docs-browser bench bench-peers clean

# The first Python that is new enough; another one: make PYTHON=/path/to/python compare
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
TORCH := $(shell grep '^torch==' constraints.txt)
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
RUN := .venv/.stamp-run
TEST := .venv/.stamp-test
LINT := .venv/.stamp-lint
DOCS := .venv/.stamp-docs
BROWSER := .venv/.stamp-docs-browser
PEERS := .venv-peers/.stamp

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

compare: $(RUN) ## compare strategies: make compare ARGS="friedman1 --seeds 5"
	@$(BIN)/bilevel compare $(ARGS)

reproduce: $(RUN) ## run the published regression tables again
	@$(BIN)/bilevel reproduce $(ARGS)

test: $(TEST) ## run the tests and every example of the documentation
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 $(ARGS)

mutants: $(TEST) ## plant mistakes in a copy of the code: do tests find them? (minutes)
	@$(BIN)/python tests/project/mutants.py $(ARGS)

lint: $(LINT) ## check style, types, import directions and dependencies
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "Run .venv/bin/ruff format ."; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/deptry .

wheel: $(RUN) ## build dist/bilevel-*.whl, which pip installs anywhere
	@rm -f dist/bilevel-*.whl
	@$(BIN)/python -m pip wheel -qq --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/bilevel-*.whl

docs: $(DOCS) ## build the documentation: open site/index.html, no server is needed
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open $(CURDIR)/site/index.html"

ADDRESS ?= 127.0.0.1:8000
docs-serve: $(DOCS) ## show the documentation while you write it, at http://127.0.0.1:8000/
	@$(BIN)/python -c 'import socket, sys; host, port = sys.argv[1].rsplit(":", 1); socket.create_server((host, int(port)))' \
		$(ADDRESS) 2>/dev/null || { echo "$(ADDRESS) is taken. Another one: make docs-serve ADDRESS=127.0.0.1:8001"; exit 1; }
	@echo "In a moment http://$(ADDRESS)/ shows the documentation, and follows what you change. Ctrl-C ends it."
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --livereload --dev-addr $(ADDRESS)

docs-browser: docs $(BROWSER) ## open every page in headless Chromium: formulas, links, search, contrast
	@$(BIN)/python -m pytest -q -rs -n 2 -m browser $(wildcard tests/project/test_site*.py) $(ARGS)

BENCH ?= core large one_run grid memory streaming tdc best_response hypergradient point cvxpy_head linear_networks newton exact tasks loops advice
bench: $(RUN) ## print speed and memory: make bench BENCH=core (or large, grid, memory, streaming, tdc)
	@for part in $(BENCH); do OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$part.py $(ARGS) || exit 1; done

bench-peers: $(PEERS) ## install JAX, jaxopt and himalaya in .venv-peers: make bench then shows their rows too

clean: ## remove built files and caches; .venv and results stay
	@rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find bilevel problems tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# A stamp is written only when everything before it went well, so an interrupted set-up starts again.
$(RUN): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "bilevel needs Python 3.11 or newer. Install one, or name it: make PYTHON=/path/to/python3.11 compare"; exit 1; }
	@if [ -e $@ ]; then echo "Bringing .venv up to date ..."; else echo "Setting up .venv (once, a few minutes) ..."; fi
	@rm -f .venv/.stamp-*
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || "$(PYTHON)" -m venv --clear .venv
	@$(INSTALL) "$(TORCH)"
	@$(INSTALL) --editable ".[cvxpy,data]"
	@touch $@

$(TEST) $(LINT) $(DOCS) $(BROWSER): .venv/.stamp-%: $(RUN)
	@echo "Adding what 'make $*' needs to .venv (once) ..."
	@$(INSTALL) --editable ".[$*]"
	@touch $@

$(PEERS): benchmarks/peers/requirements.txt
	@echo "Setting up .venv-peers (once) ..."
	@"$(PYTHON)" -m venv --clear .venv-peers
	@.venv-peers/bin/python -m pip install -qq --disable-pip-version-check -r $<
	@touch $@
