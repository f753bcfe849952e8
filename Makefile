# Two commands: `make benchmark` and `make test`. Both set up all they need, inside this folder, and are quick the second time.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
samples ?= 600
site_words ?=
IMAGE_PACKAGES := buildah podman runc debootstrap openssh-client
HOST_PACKAGES := debootstrap systemd-container iproute2 tinyproxy-bin dpkg-dev apt-utils gpg openssh-client util-linux
# Debian packages that only tests need, where they can be installed.
debian = if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! dpkg-query --show $(2) >/dev/null 2>&1; then \
	echo "Installing Debian packages with which $(1): $(2)"; \
	apt-get update -qq && apt-get install -y -qq --no-install-recommends $(2) >/dev/null; fi

.DEFAULT_GOAL := help
.PHONY: help benchmark site test lint unit integration hosts clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

benchmark: site ## Set everything up, run the benchmark on this machine (samples=600), print where the report is
	$(BIN)/ansible-playbook benchmark.yml -e samples=$(samples)

site: .venv/controller ## Prepare this machine: vLLM for the CPU, a tiny model and its data set, all under .mlperf/
	$(BIN)/ansible-playbook site.yml -e samples=$(samples) $(site_words)

# Tests of every engine; a benchmark installs those that it names.
test integration: site_words = -e harness_deepspeed=true
test: lint unit integration hosts ## Lint and run every test

lint: .venv/dev ## ruff, mypy (strict) and ansible-lint (production profile)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict plugins/module_utils
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/ansible-lint --offline

unit: .venv/dev site ## Tests without LoadGen and engines
	$(BIN)/pytest tests/unit

integration: .venv/dev site ## The real LoadGen and vLLM: on this machine, as Jobs of a cluster, and in the node image
	@$(call debian,the node image is built and started,$(IMAGE_PACKAGES))
	$(BIN)/pytest tests/integration

hosts: .venv/dev site ## site.yml and benchmark.yml over SSH on three hosts booted here (root on Debian)
	@$(call debian,three connected hosts are made and booted,$(HOST_PACKAGES))
	$(BIN)/pytest tests/hosts

clean: ## Remove what was set up here; results/ stays
	rm -rf .venv .mlperf

.venv/bin/python:
	@requirements/venv.sh $(PYTHON) .venv

.venv/controller: requirements/controller.txt pyproject.toml | .venv/bin/python
	@echo "Installing Ansible and the report's libraries into .venv"
	$(PIP) install --no-deps --require-hashes -r requirements/controller.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: requirements/dev.txt .venv/controller
	@echo "Installing linters and test tools into .venv"
	$(PIP) install --no-deps --require-hashes -r requirements/dev.txt
	@touch $@
