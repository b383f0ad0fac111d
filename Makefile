# One command per flow; `make run` and `make test` set everything up by themselves.
# Needs: Python >= 3.10 with venv, and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
SAIO   ?= saio
PORT   ?= 8080
SEED   ?= 1
COUNT  ?= 200
# A few tests that fail are tried a second time, and named.
PYTEST := $(BIN)/python -m test.support.again -n 2
# What is about bodies of objects is tested with erasure coding each time.
BODIES := $(patsubst %,test/functional/test_functional_%.py,object segments slo dlo)

.PHONY: help setup run test check format lint types unit interop functional \
        functional-ec probe sim crash bench bench-replication bench-reconstruction docs samples clients ci clean

help: ## Say what each target does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 22

setup: $(STAMP) ## Make the virtual environment with the pinned dependencies

$(STAMP): requirements.lock setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "swift needs Python 3.10 or newer; try: make PYTHON=python3.11 $@"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "Python's venv module is missing; on Debian or Ubuntu:"; \
	    echo "  sudo apt-get install python3-venv"; exit 1; }
	@command -v cc >/dev/null || command -v gcc >/dev/null || \
	  { echo "netifaces comes as source only and needs a C compiler; on Debian or Ubuntu:"; \
	    echo "  sudo apt-get install gcc python3-dev"; exit 1; }
	@echo "== virtual environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "== dependencies (about a minute the first time)"
	@$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.lock
	@$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps -e .
	@touch $@

run: setup ## Start a whole cluster on this machine (SAIO=folder PORT=number)
	@exec $(BIN)/swift-saio --port $(PORT) $(SAIO)

test: check interop functional probe sim ## Everything that must be green, under 15 minutes

check: lint types unit ## Before each commit, under two minutes

format: setup ## Rewrite the code in the common format
	$(BIN)/ruff format swift test doc
	$(BIN)/ruff check --fix swift test doc

lint: setup ## ruff
	$(BIN)/ruff format --check swift test doc
	$(BIN)/ruff check swift test doc

types: setup ## mypy --strict
	$(BIN)/mypy

unit: setup ## Unit tests
	$(PYTEST) test/unit

interop: setup ## Golden files of the system we replace
	$(PYTEST) test/interop

functional: setup ## Over HTTP, against a cluster that the tests start
	$(PYTEST) --dist loadfile test/functional
	SWIFT_TEST_POLICIES=ec+replica \
	  $(PYTEST) --dist loadfile $(BODIES)

functional-ec: setup ## All of it with erasure coding as the default policy
	SWIFT_TEST_POLICIES=ec+replica \
	  $(PYTEST) --dist loadfile test/functional

probe: setup ## Several servers; things are broken on purpose
	$(PYTEST) --dist loadfile test/probe

sim: setup ## Whole clusters in one process (SEED= COUNT=; 5000 for a night)
	@if [ -e test/sim/run.py ]; then \
	  $(BIN)/python -m test.sim.run --seed $(SEED) --count $(COUNT) --jobs 0; \
	else echo "no simulation yet"; fi

crash: setup ## Kill servers under load, by chance (REQUESTS= SEED=)
	$(BIN)/python -m pytest -s test/probe/test_probe_crash.py

clients: setup ## Real clients: swift, rclone, restic, curl
	$(BIN)/python -m pytest test/functional/test_functional_clients.py

bench: setup ## CPU time per request, in ms and in H
	$(BIN)/python -m test.bench.run
	$(BIN)/python -m test.bench.erasure

bench-replication: setup ## Passes of the daemons beside find, rsync and md5sum
	$(BIN)/python -m test.bench.replication $(if $(OBJECTS),--objects $(OBJECTS))

bench-reconstruction: setup ## A lost device filled again, beside bare coding and the disk
	$(BIN)/python -m test.bench.reconstruction

samples: setup ## Write etc/*.conf-sample and etc/systemd from the code
	$(BIN)/python doc/samples.py
	$(BIN)/python doc/units.py

docs: setup ## HTML in doc/build/html
	$(BIN)/python -m sphinx -W -q -b html doc/source doc/build/html

ci: test docs ## What .ci/run asks for

clean: ## Remove what the targets made, but no data
	rm -rf $(VENV) build doc/build *.egg-info .mypy_cache .ruff_cache .hypothesis
