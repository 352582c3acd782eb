# One door to everything. `make help` lists what there is.
SHELL := /bin/sh

# CONTEXT: a context of your kubeconfig; that cluster is used, and nothing is built or booted.
# REGISTRY, TAG: where images are pushed to (make images) or taken from (make demo, make test).
# GPU=1: build the images' variants for NVIDIA GPUs.
export CONTEXT REGISTRY TAG

RUN := scripts/run
CAPSTAN_PEERS ?= $(or $(CAPSTAN_CACHE),$(HOME)/.cache/capstan)/peers
SYNC := . scripts/environment.sh; uv sync --quiet --frozen

.DEFAULT_GOAL := help
.PHONY: help bench soak conformance fuzz demo test unit check format generate cluster bench-operator images sbom audit down clean sync

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## train, export, serve and query a model on a real Kubernetes (CONTEXT=... for one of yours)
	@scripts/bootstrap $(if $(CONTEXT),client,demo)
	@$(SYNC) --inexact --package capstan-demo
	@$(RUN) capstan-demo

test: ## every check and test, on a real Kubernetes; prints the time of each stage
	@scripts/test

unit: sync ## the fast tests: no cluster, nothing built from Go
	@$(RUN) pytest -q -m 'not cluster and not tools'

conformance: sync ## what a server of the Open Inference Protocol does and does not: URL=localhost:8000 GRPC=localhost:8001
	@CONFORMANCE_URL=$(URL) CONFORMANCE_GRPC=$(GRPC) $(RUN) pytest -q -p no:cacheprovider tests/conformance --tb=short $(ARGS)

bench: sync ## our server beside the yardsticks and the peers, which it installs: docs/benchmarks.md
	@tests/bench/serving/peers/install $(CAPSTAN_PEERS)
	@$(RUN) python tests/bench/serving/compare.py --peers $(CAPSTAN_PEERS) $(ARGS)

soak: sync ## ten minutes of mixed load on the server, every answer checked
	@$(RUN) python -m tests.soak.soak $(ARGS)

fuzz: ## bend requests until the server's parsers break: CASES=1000000
	@. scripts/environment.sh; PROPTEST_CASES=$(or $(CASES),200000) cargo test --quiet --locked --no-default-features \
	    --manifest-path $$CRATE --test hostile

check: sync ## formatters, linters, types, layers
	@scripts/check

format: sync ## format Python and Rust
	@. scripts/environment.sh; $(RUN) ruff check --fix --quiet $$PYTHON_SOURCES; \
	    $(RUN) ruff format --quiet $$PYTHON_SOURCES; cargo fmt --manifest-path $$CRATE

generate: sync ## CRDs, their copy in the chart, the kustomize base, the API reference
	@$(RUN) python scripts/generate.py

cluster: ## build what is missing and boot the local Kubernetes
	@scripts/bootstrap all
	@$(SYNC) --inexact --package capstan-demo
	@$(RUN) capstan-cluster up

bench-operator: ## what the operator costs, at rest and until a resource runs, on the cluster: docs/benchmarks.md
	@scripts/bootstrap all
	@$(SYNC) --inexact --package capstan-demo --package capstan-operator
	@$(RUN) python tests/bench/operator_cost.py

images: ## build the images; REGISTRY=... [TAG=...] pushes them there; GPU=1 the variants for NVIDIA GPUs
	@scripts/bootstrap images
	@$(SYNC) --inexact --package capstan-demo
	@$(RUN) capstan-images $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(TAG),--tag $(TAG)) $(if $(GPU),--gpu)

sbom: ## dist/sbom: what each image is made of beside its base, from the locks, as CycloneDX
	@scripts/bootstrap python
	@$(SYNC) --inexact --package capstan-demo
	@$(RUN) python scripts/sbom.py

audit: ## known vulnerabilities in what the locks name; asks osv.dev and RustSec
	@scripts/bootstrap python
	@scripts/audit

down: ## stop the local Kubernetes and remove what it left on this machine
	@scripts/bootstrap python
	@$(SYNC) --inexact --package capstan-demo
	@$(RUN) capstan-cluster down

sync:
	@scripts/bootstrap all
	@$(SYNC) --all-packages

clean: ## remove what builds left in this folder (the cache outside stays)
	rm -rf .venv dist serving/native/target .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
