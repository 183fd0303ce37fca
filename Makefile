.PHONY: demo test zoo-check check format clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The environment is made anew whenever what it is made from has changed.
$(STAMP): setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test,check,benchmark]"
	touch $@

demo: $(STAMP)
	$(BIN)/vqprior demo --output_dir output/demo --overwrite

test: $(STAMP)
	$(BIN)/python -m pytest --cov --cov-report=term

# What MONAI's model zoo asks of a bundle, and the exports of both networks.
zoo-check: $(STAMP)
	$(BIN)/python -m pytest tests/test_zoo.py tests/networks/test_exports.py

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
