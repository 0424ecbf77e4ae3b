# make run     set up, train the short sorter with live progress, save model and learning curve, sort some lists
# make test    set up, then ruff, mypy and pytest
# make check   ruff and mypy only          make bench   the benchmarks          make clean   remove what was built
#
# The set-up is done once; a stamp file per stage makes the second call immediate.
# TORCH may name another build, with pip's options behind it.

PYTHON ?= python3.11
TORCH  ?= torch==2.13.0
VENV   ?= .venv
RUN    ?= runs/sort

BIN    := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PINS   := requirements/constraints.txt
NATIVE := CMakeLists.txt $(shell find csrc -type f)

# Threads of PyTorch that wait for work sleep instead of spinning: spinning ones take the cores from the engine's.
export OMP_WAIT_POLICY ?= passive

.PHONY: setup run test check bench clean
.DELETE_ON_ERROR:

setup: $(STAMPS)/package

$(STAMPS)/venv:
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# torch alone and first: as a dependency of something else the index would give its multi-gigabyte CUDA build
$(STAMPS)/torch: $(STAMPS)/venv
	$(BIN)/pip install $(TORCH)
	@touch $@

$(STAMPS)/pins: $(STAMPS)/torch $(PINS)
	$(BIN)/pip install -r $(PINS)
	@touch $@

$(STAMPS)/package: $(STAMPS)/pins pyproject.toml $(NATIVE)
	$(BIN)/pip install --no-build-isolation --no-deps -e .
	@touch $@

run: setup
	$(BIN)/nextstate train sort --recipe short --out $(RUN)
	$(BIN)/nextstate eval sort --model $(RUN)/model.safetensors --lists 1000

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) build dist runs .pytest_cache .ruff_cache .mypy_cache .hypothesis
