# Everything a developer or a first user does starts here; `make help` lists it.
#
# PYTHON  the interpreter that makes .venv (Python 3.11 or newer)
# CONFIG  a configuration file for `make run`; without it the defaults are used
# ARGS    further arguments for the command behind run, cluster, demo, bench, conformance, fuzz or pytest

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV   ?= .venv
CONFIG ?=
ARGS   ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
STAMP := $(VENV)/.stamp
COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.PHONY: help
help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# ── set-up ────────────────────────────────────────────────────────────────────────────────────

$(STAMP)-venv:
	@./.ci/system python
	@test -x $(BIN)/python || { echo "== making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Tandem needs Python 3.11 or newer; set PYTHON=… and remove $(VENV)" >&2; exit 1; }
	@touch $@

$(STAMP)-runtime: $(STAMP)-venv requirements/runtime.txt requirements/build.txt pyproject.toml
	@echo "== installing what the collector needs into $(VENV)"
	@$(PIP) install --quiet --require-hashes -r requirements/build.txt
	@$(PIP) install --quiet --require-hashes --no-build-isolation -r requirements/runtime.txt
	@PYTHONWARNINGS=ignore $(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(STAMP)-dev: $(STAMP)-runtime requirements/dev.txt
	@echo "== installing what the tests need into $(VENV)"
	@$(PIP) install --quiet --require-hashes -r requirements/dev.txt
	@touch $@

$(STAMP)-cluster: $(STAMP)-runtime requirements/cluster.txt
	@echo "== installing Ansible and Molecule into $(VENV)"
	@$(PIP) install --quiet --require-hashes -r requirements/cluster.txt
	@touch $@

# optional: without it the fuzz test is skipped and says so
$(STAMP)-fuzz: $(STAMP)-dev requirements/fuzz.txt
	@$(PIP) install --quiet --only-binary :all: --require-hashes -r requirements/fuzz.txt \
		|| echo "== no atheris for this Python: no coverage-guided fuzzing here"
	@touch $@

.PHONY: setup
setup: $(STAMP)-fuzz ## make .venv with everything in it

.PHONY: system
system: ## install the Debian packages of tests, demo and bench (as root), or name the missing ones
	@./.ci/system tools

# ── use ───────────────────────────────────────────────────────────────────────────────────────

# exec: Ctrl-C reaches the collector itself, once
.PHONY: run
run: $(STAMP)-runtime ## a collector with store and API on this machine, with a live view; Ctrl-C ends it
	@exec $(BIN)/tandem run $(if $(CONFIG),--config $(CONFIG)) $(ARGS)

.PHONY: demo
demo: $(STAMP)-runtime system ## real NetFlow, IPFIX and sFlow from exporters in namespaces (root)
	@exec $(BIN)/python -m demo $(ARGS)

.PHONY: cluster
cluster: $(STAMP)-cluster ## two nodes behind two VIPs on this machine, with real exporters (root)
	@./.ci/system lab
	@exec $(BIN)/python -m lab cluster $(ARGS)

.PHONY: cluster-down
cluster-down: $(STAMP)-cluster ## remove that cluster and all that belongs to it
	@$(BIN)/python -m lab down >/dev/null; rm -rf /var/lib/tandem-lab.secrets

.PHONY: bench
bench: $(STAMP)-runtime system ## CPU, throughput and size against nfcapd, sfcapd and pmacct
	@exec $(BIN)/python -m benchmarks $(ARGS)

.PHONY: conformance
conformance: $(STAMP)-dev ## every capture of the corpus against its golden records
	@exec $(BIN)/python -m tests.conformance $(ARGS)

.PHONY: fuzz
fuzz: $(STAMP)-fuzz ## coverage-guided fuzzing of the decoders, one million inputs
	@mkdir -p var/fuzz; exec $(BIN)/python -m tests.fuzz --runs 1000000 --corpus var/fuzz $(ARGS)

# ── checks ────────────────────────────────────────────────────────────────────────────────────

SOURCES := $(wildcard appliance api tests benchmarks demo lab measure plugins molecule)

.PHONY: lint
lint: $(STAMP)-dev ## ruff and mypy
	@echo "== ruff check";  $(BIN)/ruff check $(SOURCES)
	@echo "== ruff format"; $(BIN)/ruff format --check $(SOURCES)
	@echo "== mypy --strict appliance api"; $(BIN)/mypy --strict appliance api

.PHONY: lint-ansible
lint-ansible: $(STAMP)-cluster ## ansible-lint and yamllint
	@echo "== yamllint";     $(BIN)/yamllint --strict .
	@echo "== ansible-lint"; PATH=$(abspath $(BIN)):$$PATH $(BIN)/ansible-lint --offline -q --nocolor

.PHONY: format
format: $(STAMP)-dev ## rewrite the sources as the lint wants them
	@$(BIN)/ruff check --fix-only --quiet $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

.PHONY: test
test: system $(STAMP)-fuzz lint lint-ansible ## set-up, lint, types and all tests, on nodes too
	@echo "== pytest"; $(BIN)/python -m pytest $(ARGS)
	@TANDEM_SLACK=4 $(MAKE) --no-print-directory molecule SCENARIOS="default failover" RUNS=1

# SCENARIOS  which of them; RUNS  how often each event is done and measured; in the environment
# TANDEM_PROFILE  default or fast; TANDEM_SUITE  trixie or bookworm; TANDEM_SLACK  by what factor
# times may be longer than their goals: tests share their machine, and are no measurement
SCENARIOS ?= default failover partition drain api drills
RUNS      ?= 5

.PHONY: molecule
molecule: $(STAMP)-cluster ## the scenarios on real nodes (root); var/failover gets the measurements
	@./.ci/system lab
	@./molecule/run $(RUNS) $(SCENARIOS)

# needs uv (pip install uv); the files hold names, versions and hashes, no addresses
.PHONY: lock
lock: ## renew requirements/*.txt from pyproject.toml
	@$(COMPILE) pyproject.toml -o requirements/runtime.txt
	@$(COMPILE) --group build -o requirements/build.txt
	@$(COMPILE) --group dev -c requirements/runtime.txt -o requirements/dev.txt
	@$(COMPILE) --group fuzz -o requirements/fuzz.txt
	@$(COMPILE) --group cluster -c requirements/runtime.txt -c requirements/dev.txt -o requirements/cluster.txt

.PHONY: clean
clean: ## remove the virtual environment and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
