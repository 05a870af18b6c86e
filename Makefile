# Every target sets up what it needs: a fresh machine wants only Python >= 3.10, a Rust toolchain and the registries.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BENCH_VENV := .venv-bench
DEEPSPARSE_VENV := .venv-deepsparse
SOURCES := $(shell find rust -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help run test test-long bench charts bench-env bench-deepsparse lint build wheel

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: build ## Train the reference CNN, prune it three ways, compile it, and print the table
	$(BIN)/secateur demo

test: lint $(VENV)/.ort ## Everything CI runs: lint, Rust tests, Python tests
	$(MAKE) --no-print-directory rust-test
	$(BIN)/pytest -m "not long" --require-targets

test-long: build $(VENV)/.ort ## The long randomised runs as well
	SECATEUR_CASES=10000 $(MAKE) --no-print-directory rust-test
	SECATEUR_CASES=10000 $(BIN)/pytest --require-targets

.PHONY: rust-test
rust-test: # nextest where it is installed, cargo's own runner elsewhere
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run -p secateur-core -p secateur-ort; \
	else cargo test -p secateur-core -p secateur-ort --lib; fi
	cargo test -p secateur-core --doc

bench: $(VENV)/.bench ## Criterion benches, then the comparisons with other libraries; writes benches/record
	cargo bench -p secateur-core --benches
	for script in spmm spmv backward ffn conv conv_backward select dynamic cnn nodes; do for threads in 1 2; do \
	  $(BIN)/python -m benches.peers.$$script --threads $$threads || exit 1; done; done
	for model in ffn bert magika; do for threads in 1 2; do \
	  $(BIN)/python -m benches.peers.ort --model $$model --plans --threads $$threads || exit 1; done; done
	! test -e $(BENCH_VENV)/.built || $(BENCH_VENV)/bin/python -m benches.peers.training_step --threads 2

charts: $(VENV)/.built ## Tables and charts of the newest record: docs/benchmarks.md, docs/img (RECORD=path for another)
	$(BIN)/python -m benches.report $(if $(RECORD),--record "$(RECORD)")

bench-env: $(BENCH_VENV)/.built ## An environment with torch beside everything else, in .venv-bench (large)

bench-deepsparse: $(DEEPSPARSE_VENV)/.built ## DeepSparse 1.8.0 in an environment of its own (Python below 3.12, 0.5 GB)

lint: build ## Formatting, clippy, ruff, mypy, stubtest
	cargo fmt --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest secateur._core --mypy-config-file pyproject.toml

wheel: $(VENV)/.zig ## Wheels of secateur and secateur-ort for every Python from 3.10 and glibc from 2.17 on, in dist/, tried out
	rm -rf dist target/wheel-venv
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/maturin build --release --quiet --zig --compatibility manylinux2014 --out dist
	GLIBC=2.17 $(BIN)/pip wheel --quiet --no-deps --wheel-dir dist ./rust/ort
	$(PYTHON) -m venv target/wheel-venv
	target/wheel-venv/bin/pip install --quiet numpy
	target/wheel-venv/bin/pip install --quiet --no-deps dist/*.whl
	cd target && wheel-venv/bin/python ../tests/wheel_smoke.py

build: $(VENV)/.built ## Build the extension and leave the package importable in .venv

$(VENV)/bin/maturin:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip maturin

# maturin installs the package's own dependencies and the test extra beside it.
$(VENV)/.built: $(VENV)/bin/maturin $(SOURCES)
	$(BIN)/maturin develop --release --quiet --extras test
	touch $@

$(VENV)/.ort: $(VENV)/.built rust/ort/pyproject.toml rust/ort/build_library.py rust/ort/python/secateur_ort/__init__.py
	$(BIN)/pip install --quiet --no-deps --force-reinstall ./rust/ort
	touch $@

# zig links against the oldest glibc that the wheel is for.
$(VENV)/.zig: $(VENV)/bin/maturin
	$(BIN)/python -m pip install --quiet ziglang
	touch $@

$(VENV)/.bench: $(VENV)/.built
	$(BIN)/maturin develop --release --quiet --extras test,bench
	touch $@

$(BENCH_VENV)/.built: $(VENV)/.built benches/requirements-torch.txt
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	rm -rf target/bench-wheel
	$(BIN)/maturin build --release --quiet --out target/bench-wheel
	$(BENCH_VENV)/bin/pip install --quiet --upgrade pip
	$(BENCH_VENV)/bin/pip install --quiet -r benches/requirements-torch.txt "$$(echo target/bench-wheel/*.whl)[bench,demo]"
	touch $@

$(DEEPSPARSE_VENV)/.built: benches/requirements-deepsparse.txt
	$(PYTHON) -m venv $(DEEPSPARSE_VENV)
	$(DEEPSPARSE_VENV)/bin/pip install --quiet -r benches/requirements-deepsparse.txt
	touch $@
