# Everything runs in .venv; the first call of any target makes it.
PYTHON ?= python3
BIN := .venv/bin
# two processes of one thread each
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

.PHONY: demo test quick lint docs clean

demo: .venv/installed
	rm -rf runs/demo
	$(BIN)/eenet train digits --out runs/demo

test: .venv/installed
	$(PYTEST)

quick: .venv/installed
	$(PYTEST) -m "not slow"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: .venv/installed
	$(BIN)/sphinx-build -q -W --keep-going -E -b html docs docs/_build
	@echo open docs/_build/index.html

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv runs docs/_build build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis
