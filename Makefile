# One door to everything. `make help` lists what there is.
SHELL := /bin/sh
CAPSTAN_CACHE ?= $(HOME)/.cache/capstan
export CAPSTAN_CACHE
export PATH := $(CAPSTAN_CACHE)/tools/bin:$(PATH)
export UV_PYTHON_DOWNLOADS := never

# CONTEXT: a context of your kubeconfig; that cluster is used, and nothing is built or booted.
# REGISTRY, TAG: where images are pushed to (make images) or taken from (make demo CONTEXT=...).
CONTEXT ?=
REGISTRY ?=
TAG ?=
GPU ?=

RUN := uv run --no-sync
PYTHON_SOURCES := operator serving agent cluster images demo examples tests
CRATE := serving/native/Cargo.toml

.DEFAULT_GOAL := help
.PHONY: help demo test test-all unit check format generate cluster images down clean bootstrap sync

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## train, export, serve and query a model on a real Kubernetes (CONTEXT=... for one of yours)
	@scripts/bootstrap $(if $(CONTEXT),python,all)
	@uv sync --quiet --frozen --inexact --package capstan-demo
	@$(RUN) capstan-demo $(if $(CONTEXT),--context $(CONTEXT)) $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(TAG),--tag $(TAG))

test: ## every check and test, on a real Kubernetes; prints the time of each stage
	@scripts/test

unit: sync ## the fast tests: no cluster
	@$(RUN) pytest -q -m 'not cluster'

check: sync ## formatters, linters, types, layers, generated files
	@scripts/check

format: sync ## format Python and Rust
	@$(RUN) ruff check --fix --quiet $(PYTHON_SOURCES) && $(RUN) ruff format --quiet $(PYTHON_SOURCES)
	@cargo fmt --manifest-path $(CRATE)

generate: sync ## CRDs, their copy in the chart, the kustomize base
	@$(RUN) python scripts/generate.py

cluster: bootstrap ## build what is missing and boot the local Kubernetes
	@uv sync --quiet --frozen --inexact --package capstan-demo
	@$(RUN) capstan-cluster up

images: ## build the images; REGISTRY=... [TAG=...] pushes them there; GPU=1 the variants for NVIDIA GPUs
	@scripts/bootstrap all
	@uv sync --quiet --frozen --inexact --package capstan-demo
	@$(RUN) capstan-images $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(TAG),--tag $(TAG)) $(if $(GPU),--gpu)

down: ## stop the local Kubernetes and remove what it left on this machine
	@scripts/bootstrap python
	@uv sync --quiet --frozen --inexact --package capstan-demo
	@$(RUN) capstan-cluster down

bootstrap:
	@scripts/bootstrap all

sync: bootstrap
	@uv sync --quiet --frozen --all-packages

clean: ## remove what builds left in this folder (the cache outside stays)
	rm -rf .venv dist serving/native/target .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
