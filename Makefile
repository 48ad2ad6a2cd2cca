# Two stacks, never in one environment: `torchforce` (pinned, TorchForce) and `latest` (PythonForce).
PYTHON ?= python3
STACK ?= latest
TEST_OPTIONS ?= -n 2

export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-torchforce test-latest lint clean

# Stamps name what the environment was made from: a change there makes it anew.
.venv-torchforce/ready: pyproject.toml
	$(PYTHON) -m venv .venv-torchforce
	.venv-torchforce/bin/pip install -q --upgrade pip
	.venv-torchforce/bin/pip install -q -e '.[torchforce,train,data,analysis,dev]'
	touch $@

# torch first: with a CPU build at hand nothing pulls the CUDA one.
.venv-latest/ready: pyproject.toml
	$(PYTHON) -m venv .venv-latest
	.venv-latest/bin/pip install -q --upgrade pip
	.venv-latest/bin/pip install -q torch==2.13.0
	.venv-latest/bin/pip install -q -e '.[python,train,data,analysis,dev]'
	touch $@

demo: .venv-$(STACK)/ready
	STACK_BIN=.venv-$(STACK)/bin sh examples/demo.sh

test: lint test-latest test-torchforce

test-torchforce: .venv-torchforce/ready
	.venv-torchforce/bin/python -m pytest $(TEST_OPTIONS)

test-latest: .venv-latest/ready
	.venv-latest/bin/python -m pytest $(TEST_OPTIONS)

lint: .venv-latest/ready
	.venv-latest/bin/ruff format --check .
	.venv-latest/bin/ruff check .
	.venv-latest/bin/mypy

clean:
	rm -rf .venv-torchforce .venv-latest build *.egg-info
