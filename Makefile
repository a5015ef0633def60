# Two commands on a fresh machine: make compare, make test. Needs Python 3.11 to 3.13 and a package index.
PYTHON ?= python3
BIN := .venv/bin
TRAIN := .venv/train
DEV := .venv/dev
LESSON := .venv/lesson

define INSTALLING
Installing PyTorch with CUDA and the rest into .venv: 6 GB, silent for minutes.
Without CUDA 200 MB: Ctrl-C, make clean-env, then see "Start" in README.md.
endef
export INSTALLING

device ?= cpu
port ?= 6006

.PHONY: help compare lesson test test-all test-fast test-versions torture bench cuda tensorboard docs lint clean clean-env
.DEFAULT_GOAL := help

help: ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 20

compare: $(TRAIN) ## train on MNIST with PyTorch's loss and ours: the same?
	$(BIN)/python train.py -m +experiment=proof

lesson: $(LESSON) ## open the lesson as a notebook, in a browser
	$(BIN)/jupyter notebook --allow-root docs/cross-entropy.ipynb

test: $(DEV) ## run what a change must pass
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal -m 'not extra'

test-all: $(DEV) ## run all tests, also those of changes in other packages
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-fast: $(DEV) ## run tests of losses, verdicts, traces and the proof
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist load -m 'not slow' \
	  tests/losses tests/verdict tests/report tests/recording/test_trace.py tests/test_testing.py

test-versions: ## run all tests with the oldest versions, and the newest
	$(PYTHON) -m venv .versions
	.versions/bin/python -m pip install --quiet uv
	$(call tested,oldest,3.11,lowest-direct)
	$(call tested,newest,3.13,highest)

define tested
.versions/bin/uv venv --quiet --clear --python $(2) .versions/$(1)
.versions/bin/uv pip install --quiet --python .versions/$(1) --resolution $(3) --editable '.[dev]'
OMP_NUM_THREADS=1 .versions/$(1)/bin/python -m pytest --numprocesses auto --dist worksteal
endef

torture: $(DEV) ## kill runs at random, resume them, compare bit for bit
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/cli/test_interrupt.py -k random_moment --kills 20

bench: $(TRAIN) ## measure speed and accuracy; device=cuda for a GPU
	for table in training accuracy proof loss; do \
	  $(BIN)/python -m benchmarks.$$table device=$(device) || exit; \
	done

cuda: ## check and measure all on a GPU, in nine minutes
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.cuda

tensorboard: $(TRAIN) ## show all runs under outputs/ in a browser
	@$(BIN)/python -m xent.report.addresses outputs $(port)
	$(BIN)/tensorboard --logdir outputs --host 127.0.0.1 --port $(port)

docs: $(DEV) ## write what the docs show of code and runs anew
	$(BIN)/python -m docs

lint: $(DEV) ## check style, types, and which room imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## remove what runs left under outputs/, after asking
	@mkdir -p outputs && du -sh outputs
	@printf 'remove all of it? [y/N] '; read answer; if [ "$$answer" = y ]; then rm -rf outputs/*; fi

clean-env: ## remove the virtual environment
	rm -rf .venv

ifeq ($(origin PYTHON) $(wildcard $(BIN)/python),command line $(BIN)/python)
ifneq ($(shell $(BIN)/python --version),$(shell $(PYTHON) --version))
$(info .venv has $(shell $(BIN)/python --version), which is used; for $(PYTHON), run make clean-env first)
endif
endif

# Each is the virtual environment with an extra of pyproject.toml; `dev` and `lesson` bring `train` along.
$(TRAIN) $(DEV) $(LESSON): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1): expected Python 3.11 to 3.13, give one as make PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv .venv
	@$(BIN)/python -c 'import torch' 2> /dev/null || echo "$$INSTALLING"
	$(BIN)/python -m pip install --quiet --editable '.[$(@F)]' --constraint constraints.txt
	@touch $(TRAIN) $@
