# Two commands on a fresh machine: make compare, make test. Needs Python 3.11 to 3.13 and a package index.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

device ?= cpu
port ?= 6006

.PHONY: help compare test torture bench tensorboard docs lint clean
.DEFAULT_GOAL := help

help: ## list these commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 18

compare: $(INSTALLED) ## train with PyTorch's loss and with ours on MNIST: is it the same?
	$(BIN)/python train.py -m +experiment=proof

test: $(INSTALLED) ## run every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

torture: $(INSTALLED) ## kill runs at random moments, go on with them, compare bit for bit
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_torture.py --kills 20

bench: $(INSTALLED) ## time everything that is waited for; device=cuda for a GPU
	for table in start training accuracy switches growth proof loss; do \
	  $(BIN)/python -m benchmarks.$$table device=$(device) || exit; \
	done

tensorboard: $(INSTALLED) ## show all runs under outputs/ in a browser
	@echo 'curves, gaps and verdicts: http://127.0.0.1:$(port)/#custom_scalars&_smoothingWeight=0'
	$(BIN)/tensorboard --logdir outputs --host 127.0.0.1 --port $(port)

docs: $(INSTALLED) ## write every number and picture of docs/ anew
	$(BIN)/python -m docs

lint: $(INSTALLED) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove the virtual environment
	rm -rf .venv

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1): expected Python 3.11 to 3.13, give one as make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@
