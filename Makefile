# One command for each job; CI calls the same. `make help` lists them.
SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)
VENV := .venv
PIP := $(VENV)/bin/pip -q --disable-pip-version-check
STAMP := $(VENV)/.installed
PACKAGES := fio nbdkit libnbd-bin qemu-utils xfsprogs btrfs-progs fuse3 e2fsprogs mount
PYTHON_SOURCES := $(shell find python core/src -name '*.py' -o -name '*.rs' -o -name '*.pyi' -o -name 'pyproject.toml')

.PHONY: help build install demo test test-long lint bench doc clean packages venv

help:  ## List the jobs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

packages:  ## Install the programs that tests and demo run (Debian, as root)
	@.ci/packages $(PACKAGES)

venv: $(VENV)/.tools  ## Make the local virtual environment
$(VENV)/.tools: python/requirements-dev.txt
	python3 -m venv $(VENV)
	$(PIP) install -r python/requirements-dev.txt
	touch $@

build:  ## Build everything
	cargo build --workspace --all-targets

install: $(STAMP)  ## Build the package and install it into .venv
$(STAMP): $(VENV)/.tools $(PYTHON_SOURCES) Cargo.toml Cargo.lock
	$(PIP) install --force-reinstall --no-deps ./python
	touch $@

demo: packages install  ## Protect a real file system, crash, recover, prove every point
	$(VENV)/bin/hrl demo

lint: $(STAMP)  ## Formatting, lints and types
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cd python && ../$(VENV)/bin/ruff check . && ../$(VENV)/bin/ruff format --check . && ../$(VENV)/bin/mypy
	$(VENV)/bin/stubtest hrl --allowlist python/stubtest-allowlist.txt

test: packages install lint  ## Everything that must hold before a change lands
	cargo test --workspace
	cd python && ../$(VENV)/bin/pytest -q

test-long: packages install  ## Long sweeps
	cargo test --release -p hrl -- --ignored --nocapture

bench:  ## Benchmarks; figures go to benches/RESULTS.md by hand
	cargo bench -p hrl-benches

doc:  ## API documentation
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps -p hrl

clean:  ## Remove what was built
	cargo clean
	rm -rf $(VENV)
