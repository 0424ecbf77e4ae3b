# make run     set up, train the short sorter with live progress, save model and learning curve, sort some lists
# make test    set up, then ruff, mypy and pytest
# make check   ruff and mypy only          make clean   remove what was built
# make bench   the benchmarks              (JAX is one of the peers once it is installed: see CONTRIBUTING.md)
# make bench-buzz DATA=folder   train and measure sentiment on public sets (docs/buzzometer.md)
# make sanitize   the agreement tests on kernels built with AddressSanitizer, then with UBSan
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

# Threads of PyTorch that wait for work sleep instead of spinning: spinning ones take the cores from the engine's own.
# Not for `run`, which sets PyTorch to one thread, nor for the benchmarks, where it is a peer, measured as it comes.
test: export OMP_WAIT_POLICY ?= passive

.PHONY: setup run test check bench bench-buzz sanitize clean
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
	awk 'BEGIN { srand(); for (; k < 96; k++) printf "%d%s", 1 + 32 * rand(), k % 32 < 31 ? " " : "\n" }' | tee /dev/stderr \
	  | $(BIN)/nextstate sort --model $(RUN)/model.safetensors

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/run.py

bench-buzz: setup
	$(BIN)/python benchmarks/buzz.py $(DATA)

# The sanitized extension stands beside the package's Python files in a folder of its own; leaks are Python's.
SANITIZED := ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 OMP_NUM_THREADS=1
sanitize: setup
	for kind in address undefined; do \
	  rm -rf build/$$kind && mkdir -p build/$$kind && cp -r src/nextstate build/$$kind/ && rm -f build/$$kind/nextstate/*.so && \
	  cmake -S . -B build/$$kind/cmake -DNEXTSTATE_SANITIZE=$$kind -DPython_EXECUTABLE=$(abspath $(BIN)/python) >/dev/null && \
	  cmake --build build/$$kind/cmake -j 2 && cp build/$$kind/cmake/*.so build/$$kind/nextstate/ && \
	  $(SANITIZED) LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so) $$(c++ -print-file-name=libstdc++.so)" \
	  $(BIN)/python tests/compiler/sanitized.py $(abspath build)/$$kind -q -p no:cacheprovider tests/engine tests/compiler/test_steps.py \
	  tests/compiler/test_same_bits.py tests/compiler/test_memory.py tests/compiler/test_edges.py \
	  tests/compiler/test_odd_steps.py tests/test_laws.py::test_engine_agrees_with_the_reference || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist runs .pytest_cache .ruff_cache .mypy_cache .hypothesis
