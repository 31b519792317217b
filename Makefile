# The only front door. `make help` lists what it opens; CI calls the same names.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# A CI checkout comes and goes; what was compiled is worth keeping.
ifdef CI
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/grantsmith/target
LOCKED := --locked
endif

TOOLS := tests/tools
SCRIPTS := $(wildcard $(TOOLS)/*.sh $(TOOLS)/*/*.sh deploy/*.sh) .ci/run

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## Build Grantsmith and start its demo: plays a purchase against fakes, then serves (flags: ARGS="...")
	@$(TOOLS)/prerequisites.sh run
	@# The dev profile: a clean clone is compiled in two thirds of the time that release takes.
	cargo run $(LOCKED) -p grantsmith-service -- demo $(ARGS)

.PHONY: cluster
cluster: ## Start a Kubernetes control plane with the operator and a fake AuthForge, to try kubectl on
	@$(TOOLS)/prerequisites.sh cluster
	kubernetes=$$($(TOOLS)/get.sh kubernetes) && \
	GRANTSMITH_KUBERNETES=$$kubernetes cargo run $(LOCKED) -p grantsmith-tests --example cluster

.PHONY: test
test: ## Get what the tests need, run all of them, end with the counts (some only: ARGS="-p grantsmith-core")
	@$(TOOLS)/test.sh $(ARGS)

.PHONY: check
check: ## Format, lints, freshness of generated files, the gRPC contract, dependency rules
	@$(TOOLS)/prerequisites.sh check
	cargo fmt --all --check
	@$(MAKE) --no-print-directory lint
	@# The whole workspace, so that the same features are compiled as for `make test`.
	cargo test $(LOCKED) --workspace --test generated --test dependencies

.PHONY: fmt
fmt: ## Format the Rust code
	cargo fmt --all

.PHONY: lint
lint: ## clippy without warnings, buf, the shell scripts
	cargo clippy $(LOCKED) --workspace --all-targets -- -D warnings
	buf=$$($(TOOLS)/get.sh buf) && "$$buf" lint
	for script in $(SCRIPTS); do bash -n "$$script" || exit 1; done
	if command -v shellcheck >/dev/null; then shellcheck $(SCRIPTS); fi

.PHONY: generate
generate: ## Rewrite every generated file that is committed
	cargo run $(LOCKED) -p grantsmith-proto --example gen
	cargo run $(LOCKED) -p grantsmith-service --example gen
	cargo run $(LOCKED) -p grantsmith-crd --example gen
	@# Last: the chart is rendered with the definition in it.
	$(TOOLS)/chart.sh generate

.PHONY: chart
chart: ## Render, lint and unit-test the chart, and see whether what is made of it is fresh
	@$(TOOLS)/prerequisites.sh chart
	@$(TOOLS)/chart.sh check

.PHONY: bench
bench: ## Measure against the Express handlers, side by side, and print the table (others: ARGS=operator, ARGS=pods)
ifeq ($(firstword $(ARGS)),operator)
	@$(TOOLS)/prerequisites.sh cluster
	kubernetes=$$($(TOOLS)/get.sh kubernetes) && \
	cargo build $(LOCKED) --release -p grantsmith-operator && \
	GRANTSMITH_KUBERNETES=$$kubernetes GRANTSMITH_OPERATOR=$${CARGO_TARGET_DIR:-target}/release/grantsmith-operator \
	cargo bench $(LOCKED) -p grantsmith-tests --bench operator -- $(wordlist 2,9,$(ARGS))
else ifeq ($(firstword $(ARGS)),pods)
	@$(TOOLS)/prerequisites.sh cluster && $(TOOLS)/prerequisites.sh node
	node=$$($(TOOLS)/get.sh node) && helm=$$($(TOOLS)/get.sh helm) && mailpit=$$($(TOOLS)/get.sh mailpit) && \
	images=$${CARGO_TARGET_DIR:-$$PWD/target}/images-bench && deploy/images.sh release "$$images" test && \
	host=$$(rustc --version --verbose | awk '/^host:/ { print $$2 }') && \
	GRANTSMITH_NODE=$$node GRANTSMITH_HELM=$$helm GRANTSMITH_MAILPIT=$$mailpit GRANTSMITH_IMAGES=$$images \
	GRANTSMITH_STANDALONE=$${CARGO_TARGET_DIR:-$$PWD/target}/$$host/release/grantsmith \
	cargo bench $(LOCKED) -p grantsmith-tests --bench pods -- $(wordlist 2,9,$(ARGS))
else
	@$(TOOLS)/prerequisites.sh bench
	rivals=$$($(TOOLS)/get.sh rivals) && \
	cargo build $(LOCKED) --release -p grantsmith-service && \
	GRANTSMITH_RIVALS=$$rivals cargo bench $(LOCKED) -p grantsmith-tests --bench purchase $(if $(ARGS),-- $(ARGS))
endif

.PHONY: images
images: ## Build both container images without Docker, as OCI tars in the target folder's images/
	@deploy/images.sh release $${CARGO_TARGET_DIR:-target}/images

.PHONY: release
release: ## Build all that a release has, into dist/: images, programs, chart, manifests, SHA256SUMS
	rm -rf dist
	@deploy/images.sh release dist
	@deploy/release.sh pack dist

.PHONY: sbom
sbom: ## Add to dist/ what the programs are made of, as CycloneDX
	@deploy/release.sh sbom dist

.PHONY: push
push: ## Push images and chart of dist/ to a registry (REGISTRY=HOST/OWNER)
	@deploy/release.sh push dist

.PHONY: announce
announce: ## Make a draft of a release at GitHub, with all of dist/
	@deploy/release.sh announce dist

.PHONY: deny
deny: ## Licenses, bans and sources of all dependencies, by cargo-deny
	deny=$$($(TOOLS)/get.sh cargo-deny) && "$$deny" --workspace check bans licenses sources

.PHONY: advisories
advisories: ## Known vulnerabilities in dependencies, by cargo-deny; blocks nothing
	deny=$$($(TOOLS)/get.sh cargo-deny) && "$$deny" --workspace check advisories

.PHONY: tools
tools: ## Build the tools that tests and checks use; they are kept in the user's cache folder
	@for tool in mailpit stripe-mock grpcurl buf helm helm-unittest glua kubernetes; do $(TOOLS)/get.sh "$$tool" || exit 1; done

.PHONY: prerequisites
prerequisites: ## Check what must be on this machine; root on Debian gets it installed, others are told how
	@$(TOOLS)/prerequisites.sh all
	@echo "nothing is missing"
