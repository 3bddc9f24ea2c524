# Entry points for users and developers. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

unexport PYTHONDONTWRITEBYTECODE # else each of the tests' thousand processes compiles all that it imports of us

.DEFAULT_GOAL := help
.PHONY: help demo test test-full check proto lock lint supply services clean docs wheelhouse

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "corsia needs Python 3.11 or 3.12; say make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing corsia and its dependencies into $(VENV) (a few minutes the first time)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

services: # system packages that some tests use: installed as root on Debian with CI=true or SERVICES=1, else named
	@sh .ci/services

demo: $(STAMP) ## four lanes over three hospitals, as real processes
	@$(BIN)/corsia demo --sites 3 --out demo-out

# Two at once, an idle core taking over half of what the other has left; of what starts processes, one file at a time on
# each core (tests/conftest.py), the long ones first.
ALONE    := --dist worksteal tests/property tests/contract tests/unit
TOGETHER := --dist loadfile --no-loadscope-reorder tests/e2e tests/fault tests/integration

test: $(STAMP) services ## every contract and fault point at small size (the README's)
	@$(BIN)/pytest -q -n 2 -m "not full" $(ALONE)
	@$(BIN)/pytest -q -n 2 -m "not full" $(TOGETHER)

test-full: $(STAMP) services ## the same at the sizes the issues name
	@CORSIA_FULL=1 $(BIN)/pytest -q -n 2 $(ALONE)
	@CORSIA_FULL=1 $(BIN)/pytest -q -n 2 $(TOGETHER)

check: $(STAMP) lint supply ## lint, types, imports, licences, unit tests
	@$(BIN)/pytest -q -n 2 -m "not full and not slow" tests/unit

supply: $(STAMP) # licences of what we stand on; known vulnerabilities where an advisory source is given (.ci/audit.py)
	@$(BIN)/python docs/licences.py --check
	@$(BIN)/python .ci/audit.py

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

proto: $(STAMP) ## make protocol/v1/*_pb2*.py from fleet.proto
	@$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. --pyi_out=. protocol/v1/fleet.proto

docs: $(STAMP) ## the site of docs/ in site/, strict: a dead link or an undocumented name ends it
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

SEAT ?= edge
wheelhouse: $(STAMP) ## SEAT=edge|central|extras: build/wheelhouse-SEAT, from which a site without an index installs
	@rm -rf build/wheelhouse-$(SEAT)
	@$(BIN)/python deploy/wheelhouse.py $(SEAT) build/wheelhouse-$(SEAT)

lock: ## resolve anew and write constraints.txt (developers; needs the package index)
	@rm -rf build/lock && $(PYTHON) -m venv build/lock
	@build/lock/bin/pip install --quiet --disable-pip-version-check -c constraints.txt '.[all,dev]'
	@{ echo '# Resolved together on Python 3.11 by plain pip; `make lock` writes this file anew. Use: pip install -c constraints.txt'; \
	   build/lock/bin/pip freeze --exclude corsia | sed 's/+cpu$$//' ; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt && rm -rf build/lock

clean: ## remove the environment and everything that was made
	@rm -rf $(VENV) build dist demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
