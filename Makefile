# Everything runs in .venv, which `make setup` builds; each target sets up what it needs.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find rust Cargo.toml Cargo.lock pyproject.toml -name '*.rs' -o -name '*.toml' -o -name 'Cargo.lock')
RUST := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo test test-rust test-python docs tour mutants models mutants-rust bench gpu lint format all wheels msrv audit clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.built  ## build the development environment in .venv

$(VENV)/.packages: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	    e = p["optional-dependencies"]; \
	    print(*p["dependencies"], *(r for n in ("hf", "hybrid", "viz", "video", "demo", "docs", "dev") for r in e[n] if not r.startswith("treepack")), sep="\n")' \
	    > $(VENV)/requirements.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r $(VENV)/requirements.txt
	touch $@

$(VENV)/.built: $(VENV)/.packages $(SOURCES)
	@# pip would list every extra that it does not install.
	VIRTUAL_ENV=$(CURDIR)/$(VENV) PIP_QUIET=1 $(BIN)/maturin develop --release --quiet
	@touch $@

demo: setup  ## train a small real VLM architecture on packed message trees
	$(BIN)/python examples/train.py

test: test-rust test-python  ## run every test, Rust and Python

test-rust:
	cargo test --quiet

# Two processes; a file stays in one, with what its tests share. In the order of the folders, the
# heavy files begin, and the light ones fill up both processes at the end.
test-python: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

models: setup  ## write the tables of docs/models.md and of hf/compared.json from what is measured
	cd tests && ../$(BIN)/python -m helpers.zoo.table
	cd tests && ../$(BIN)/python -m helpers.zoo.classes

docs: setup  ## build the site in target/site/html, no warning allowed
	$(BIN)/python docs/site/stage.py
	@# Its cache knows the pages, not the code that they document.
	$(BIN)/zensical build --strict --clean

tour: setup  ## draw the figures of the pages, run the notebook again, and keep what they give
	$(BIN)/python docs/site/figures.py
	$(BIN)/python docs/site/notebook.py

mutants: setup  ## break the package in small ways, see what the tests find; MUTANTS="--group train --all"
	PYTHONPATH=tests $(BIN)/python -m mutants $(MUTANTS)

mutants-rust:  ## the same for the core; an hour for each group
	tests/mutants/rust.sh

bench: setup  ## compare with the alternatives, ratios in one run
	$(BIN)/python benches/packing.py
	$(BIN)/python benches/offline.py
	$(BIN)/python benches/mask.py
	$(BIN)/python benches/attention.py
	$(BIN)/python benches/step.py
	$(BIN)/python benches/head.py
	$(BIN)/python benches/grpo.py
	$(BIN)/python benches/balance.py
	$(BIN)/python benches/loader.py
	$(BIN)/python benches/measuring.py
	$(BIN)/python benches/grouping.py
	cargo bench --quiet

# No setup: such a machine has torch, pytest and hypothesis, and a wheel in dist, or treepack itself.
gpu:  ## on a machine with a GPU: doctor, tests/gpu, benches; one JSON and one table in gpu-results
	$(PYTHON) benches/gpu.py

lint: setup  ## check format, lints, types and stubs
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest treepack._core
	@# Every public symbol has a type that is known; it finds the packages beside the python in PATH.
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/basedpyright --verifytypes treepack --ignoreexternal > $(VENV)/types.txt || { tail -n 300 $(VENV)/types.txt; exit 1; }

format:  ## format Rust and Python
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

all: lint test  ## what continuous integration runs

$(VENV)/tools: .github/requirements/release.txt .github/requirements/audit.txt
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --require-hashes $(addprefix -r ,$^)
	touch $@

wheels: $(VENV)/tools  ## build the sdist, and the wheel for glibc 2.17, as a release does, and check them
	rm -rf dist
	$</bin/maturin sdist --out dist
	PATH="$(CURDIR)/$</bin:$$PATH" $</bin/maturin build --release --locked --strip --quiet --zig --compatibility manylinux2014 --out dist
	$</bin/twine check --strict dist/*
	$</bin/abi3audit --strict --summary dist/*-abi3-*.whl

msrv:  ## compile all of it with the oldest Rust that is supported
	rustup toolchain install $(RUST) --profile minimal --no-self-update
	cargo +$(RUST) check --quiet --locked --workspace --all-targets

audit: $(VENV)/tools  ## licences and sources of the crates, known vulnerabilities, the workflows; needs cargo-deny, cargo-audit
	cargo deny --locked check
	cargo audit
	$</bin/zizmor --offline --persona=pedantic .github

clean:  ## remove everything that was built
	cargo clean
	rm -rf $(VENV) .cache dist examples/out
