# Two commands matter: `make demo` and `make test`. Both set up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
# One BLAS thread per test process: the workers share the cores.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help setup demo test test-slow test-peers lint docs bench clean

help:
	@echo "make demo        run the main job on the embedded example"
	@echo "make test        the default test suite (under 5 minutes on 2 cores)"
	@echo "make test-slow   the long proofs"
	@echo "make test-peers  comparisons with other libraries (installs them)"
	@echo "make lint | docs | bench | clean"

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "setting up $(VENV), once: one to three minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/.peers: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,peers]'
	@touch $@

setup: $(VENV)/.ready

demo: $(VENV)/.ready
	$(BIN)/recollect demo --out recollect-demo --force

test: $(VENV)/.ready
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-slow: $(VENV)/.ready
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m slow

test-peers: $(VENV)/.peers
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) -m peers

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(VENV)/.ready
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.peers
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) docs/_build recollect-demo
