# Commands: `make benchmark`, `make live`, `make test` and `make test-all`. All set up what they need, inside this folder, and are
# quick the second time.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
samples ?= 838
site_words ?=
folder ?= .mlperf/live
live_words ?=
# Tests that wait for processes more than they compute: side by side, and more of them than there are cores.
PYTEST := $(BIN)/pytest
SIDE_BY_SIDE := -n 4 --dist loadgroup
LONG_PACKAGES := buildah podman runc debootstrap openssh-client systemd-container iproute2 tinyproxy-bin dpkg-dev apt-utils gpg util-linux
# Debian packages that only tests need, where they can be installed.
debian = if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! dpkg-query --show $(2) >/dev/null 2>&1; then \
	echo "Installing Debian packages with which $(1): $(2)"; \
	apt-get update -qq && apt-get install -y -qq --no-install-recommends $(2) >/dev/null; fi

.DEFAULT_GOAL := help
.PHONY: help benchmark site live test test-all lint unit integration long clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

benchmark: site ## Set everything up, run the benchmark on this machine (samples=838), print where the report is
	$(BIN)/ansible-playbook benchmark.yml -e samples=$(samples)

site: .venv/controller ## Prepare this machine: vLLM for the CPU, a tiny model and its data set, all under .mlperf/
	$(BIN)/ansible-playbook site.yml -e samples=$(samples) $(site_words)

live: .venv/controller ## Measure this machine's GPU beside published figures (folder=DIR, live_words="--model DIR …")
	$(BIN)/python -m tests.live --folder $(folder) $(live_words)

test: lint unit integration ## Lint, unit tests, and the real LoadGen, vLLM and ansible-playbook here: about 12 minutes on two idle cores

test-all: test long ## All of `make test`, then all of `make long`

lint: .venv/dev ## ruff, mypy (strict) and ansible-lint (production profile)
	@echo "Linting: ruff, mypy, ansible-lint"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/ansible-lint --offline

unit: .venv/dev site ## Tests without LoadGen and engines
	@$(call debian,pages are looked at,chromium)
	@echo "Unit tests: no LoadGen, no engine"
	$(PYTEST) $(SIDE_BY_SIDE) -m "not long" tests/unit

integration: .venv/dev site ## The real LoadGen and ansible-playbook, mostly over fake engines, then over a pair of the real vLLM
	@echo "Integration tests: the real LoadGen and ansible-playbook over fake engines"
	$(PYTEST) $(SIDE_BY_SIDE) -m "not vllm and not long" tests/integration tests/faults
	@echo "Integration tests: the real vLLM"
	$(PYTEST) -m "vllm and not long" tests/integration

# Tests of every engine; a benchmark installs those that it names.
test-all long: site_words = -e harness_deepspeed=true
# Unit tests import Ansible, after which PyTorch cannot be imported by the same process.
long: .venv/dev site ## What takes minutes: the node image, Jobs of a cluster, DeepSpeed, booted hosts, long faults (Debian, root)
	@$(call debian,the node image is built and three hosts are booted,$(LONG_PACKAGES))
	@echo "Long tests: the node image, Jobs of a cluster, torchx, DeepSpeed, killed engines, booted hosts, faults (docs/reliability.md)"
	$(PYTEST) $(SIDE_BY_SIDE) -m long tests/unit
	$(PYTEST) -n 3 --dist loadgroup -m long tests/hosts tests/integration tests/faults

clean: ## Remove what was set up here; results/ stays
	rm -rf .venv .mlperf

.venv/bin/python:
	@requirements/venv.sh $(PYTHON) .venv

.venv/controller: requirements/controller.txt pyproject.toml | .venv/bin/python
	@echo "Installing Ansible and the report's libraries into .venv"
	@requirements/install.sh $(BIN)/python requirements/controller.txt >/dev/null
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: requirements/dev.txt .venv/controller
	@echo "Installing linters and test tools into .venv"
	@requirements/install.sh $(BIN)/python requirements/dev.txt >/dev/null
	@touch $@
