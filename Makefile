# mmclr: every target works on a fresh clone; nothing has to be installed first but Python (and, for `make test`, a C++ compiler).
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check format bench picture papers clean

help:  ## explain every target
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A stamp is newer than what it was made from, so a second run installs nothing. The demo needs less than the tests.
.venv/.demo: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "mmclr needs Python 3.10 or later: make PYTHON=python3.12 ...")'
	@echo "installing what the demo needs into .venv (1.4 GB, a few minutes; the next make starts at once)"
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet -c constraints.txt torch torchvision
	$(PIP) install --quiet -c constraints.txt -e '.[demo]'
	$(BIN)/mmclr doctor --fix torchvision
	@touch $@

.venv/.ready: .venv/.demo
	@echo "installing the rest into .venv: DeepSpeed, and what tests and checks need"
	$(PIP) install --quiet -c constraints.txt -e '.[demo,deepspeed,dev]'
	$(BIN)/mmclr doctor --fix torchvision
	@touch $@

setup: .venv/.ready  ## create .venv and install everything (the other targets do this by themselves)

demo: .venv/.demo  ## train, evaluate and export on about 14,000 real icons (6 minutes on 2 cores), then open runs/demo/report.html
	$(BIN)/mmclr demo

test: setup  ## run the default tests (16 minutes on 2 cores, no network)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not gpu"

test-all: setup  ## run every test, the long ones too
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

check: setup  ## lint, format check and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/types/mmclr && ln -sfn $(CURDIR)/mmclr/* $(CURDIR)/eval $(CURDIR)/data_tools build/types/mmclr/
	cd build/types && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml

format: setup  ## format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup  ## measure against the peers, side by side (long; quality.py, caption_quality.py and papers.py there are longer, and run by name)
	for b in loss data step zero_shot cross_check caption; do $(BIN)/python benchmarks/$$b.py || exit 1; done

picture: demo  ## run the demo and take the README's picture of its report (needs Chromium)
	$(BIN)/python docs/picture.py runs/demo/report.html

papers: setup  ## write PAPERS.md from docstrings, and measure the costs in it that changed
	$(BIN)/python benchmarks/papers.py --stale --write
	$(BIN)/mmclr papers --write PAPERS.md

clean:  ## remove .venv, caches and runs/
	rm -rf .venv runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
