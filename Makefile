# Everything a developer needs, set-up included: `make demo` and `make test` work on a fresh machine.
PYTHON ?= python3
VENV := .venv
BENCH_VENV := .venv-bench
TENSORFLOW_VENV := .venv-tensorflow
MXNET_VENV := .venv-mxnet
WORKERS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-tensorflow test-mxnet lint format docs bench clean

help:
	@echo "make demo    run the quickstart example: prints a table, writes a figure"
	@echo "make test    run all tests and doctests (PYTEST_ARGS=\"-m 'not slow'\" for the quick ones)"
	@echo "make test-tensorflow    run the tests of TensorFlow, and of Keras on it, in an environment of their own"
	@echo "make test-mxnet    run the tests of MXNet, and the others with the oldest supported versions, likewise"
	@echo "make lint    ruff check, ruff format --check, mypy"
	@echo "make format  sort imports and format"
	@echo "make docs    build the documentation into docs/_build/html"
	@echo "make bench   compare with other libraries, in an environment of its own"
	@echo "make clean   remove environments, caches and built files"

# An environment is made once; an extra is installed again only when pyproject.toml changes.
.venv/.created .venv-bench/.created .venv-tensorflow/.created .venv-mxnet/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "skart needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Name another interpreter: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(@D) || { \
		echo "'$(PYTHON) -m venv' failed. Debian and Ubuntu ship it in the package python3-venv." >&2; exit 1; }
	@touch $@

.venv/.installed-%: pyproject.toml .venv/.created
	@echo "Installing skart[$*] into $(@D) (the first time takes a while)"
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	@touch $@

.venv-bench/.installed-%: pyproject.toml .venv-bench/.created
	@echo "Installing skart[$*] into $(@D) (the first time takes a while)"
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	@touch $@

.venv-tensorflow/.installed-%: pyproject.toml .venv-tensorflow/.created
	@echo "Installing skart[$*] into $(@D) (the first time takes a while)"
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	@touch $@

# MXNet 1.9.1 wants a Python that has wheels of NumPy 1.23: Python 3.11 is the newest.
.venv-mxnet/.installed-%: pyproject.toml .venv-mxnet/.created
	@echo "Installing skart[$*] into $(@D) (the first time takes a while)"
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	@touch $@

# The matrices are small: threads inside a product only get in each other's way, badly so on a busy machine.
demo: $(VENV)/.installed-plot
	OMP_NUM_THREADS=1 MPLBACKEND=Agg $(VENV)/bin/python examples/plot_quickstart.py

# One thread a worker: the workers share the cores already. pytest fails where it finds no test.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 MPLBACKEND=Agg $(VENV)/bin/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

# Keras has one backend a process; its other ones are tested by `make test`.
test-tensorflow: $(TENSORFLOW_VENV)/.installed-test-tensorflow
	OMP_NUM_THREADS=1 KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 $(TENSORFLOW_VENV)/bin/python -m pytest $(PYTEST_ARGS) \
		tests/estimators/test_tensorflow.py tests/estimators/test_tensorflow_v1.py \
		tests/estimators/test_keras.py tests/gradients/test_keras.py \
		skart/estimators/_tensorflow.py skart/estimators/_tensorflow_v1.py skart/estimators/_keras.py

# What needs no other library than those that this environment has.
test-mxnet: $(MXNET_VENV)/.installed-test-mxnet
	OMP_NUM_THREADS=1 MPLBACKEND=Agg $(MXNET_VENV)/bin/python -m pytest -n $(WORKERS) $(PYTEST_ARGS) \
		tests/common tests/core tests/attacks tests/gradients tests/oracles tests/defences tests/metrics \
		tests/verification tests/wrappers tests/inspection tests/utils \
		tests/estimators/test_mxnet.py skart/estimators/_mxnet.py

lint: $(VENV)/.installed-lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.installed-lint
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(VENV)/.installed-docs
	MPLBACKEND=Agg $(VENV)/bin/python -m sphinx -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html

bench: $(BENCH_VENV)/.installed-bench
	OMP_NUM_THREADS=1 $(BENCH_VENV)/bin/python -m benchmarks $(BENCH_ARGS)

clean:
	rm -rf $(VENV) $(BENCH_VENV) $(TENSORFLOW_VENV) $(MXNET_VENV) build dist docs/_build docs/api docs/auto_examples
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find skart tests examples benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
