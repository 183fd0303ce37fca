.PHONY: demo test test-fast zoo-check gpu-check tables check format docs dist bundle try-wheel clean

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

# On all cores, four at most: each worker loads torch. An idle worker takes tests of a busy one. `make test COVERAGE=1`, as
# .ci/run calls it, takes about twice as long and fails if the tests run less than 90 % of the lines of the package.
test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(if $(COVERAGE),--cov --cov-report=term)

# Under a minute, while one works on the code: no commands, trainings and exports.
test-fast: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m fast

# What MONAI's model zoo asks of a bundle, and the exports of both networks.
zoo-check: $(STAMP)
	$(BIN)/python -m pytest -m zoo

# On a machine with a GPU, in less than eight minutes, with the packages of PYTHON, whose torch must be built for CUDA:
# what runs on CUDA beside the same on the CPU, then speed, which goes to output/gpu.json.
gpu-check:
	@$(PYTHON) -c "import importlib.util as u, sys; t = u.find_spec('torch') and __import__('torch'); \
	t and t.cuda.is_available() or sys.exit('gpu-check: ' + (sys.executable or 'PYTHON') + \
	' has no torch that finds a CUDA device: make gpu-check PYTHON=/path/to/python')"
	$(PYTHON) -m pytest -m gpu tests/test_gpu.py
	$(PYTHON) -m benchmarks.gpu --json output/gpu.json

# The tables of documents, from the figures in benchmarks/results/*.json.
tables: $(STAMP)
	$(BIN)/python -m benchmarks.tables

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The pages of docs/ and the reference of the Python interface, from docs/_build/html/index.html on.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet --fresh-env docs docs/_build/html

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	touch $@

# Source distribution, and the wheel that is built from it.
dist: $(STAMP)
	rm -rf dist/monai_vqprior-*
	$(BIN)/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')"
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist dist/monai_vqprior-*.tar.gz

# The bundle as a pull request to the model zoo takes it: a folder and a zip file. A name with _v in it would be read
# by the zoo's scripts as the beginning of the version.
BUNDLE := dist/brain_mri_axial_slices_generative_pixelcnn

bundle: $(STAMP)
	rm -rf $(BUNDLE) $(BUNDLE)_v*.zip
	$(BIN)/vqprior bundle --output $(BUNDLE) --zoo

# The wheel in a clean environment, with the versions asked for, from a directory without the checkout:
# make try-wheel VERSIONS="monai==1.6.0 torch==2.8.0"
VERSIONS ?= monai torch

try-wheel: dist
	rm -rf build/try
	$(PYTHON) -m venv build/try
	build/try/bin/pip install --quiet --disable-pip-version-check dist/monai_vqprior-*.whl $(VERSIONS)
	cd build/try && bin/pip list | grep -iE "^(monai|torch|numpy) " && bin/vqprior demo --subjects 3 --max_minutes 0.1

clean:
	rm -rf $(VENV) docs/_build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
