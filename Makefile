# make demo: ISGD on real data, one table and two figures.
# make test: the test suite.
# make test-unit: no processes, pages, batteries or whole runs; while you write.
# make test-slow: what takes minutes, runs killed twenty times among it.
# make docs: the documentation site, into build/site; make docs-serve shows it.
# make results: every comparison that RESULTS.md reports, an hour or two.
# make wheel: the package as one file, in dist/; for Colab, say.
# make notebooks: executes them all, in place, a few minutes.
# All need Python >= 3.11 and make, and install the rest into .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= isgd-demo

.PHONY: demo test test-unit test-slow lint docs docs-serve bench results notebooks wheel clean

demo: $(VENV)/.experiments
	$(BIN)/isgd-jax demo --out $(OUT)

# The invariants, the numbers, the cost of a step and every doctest as XLA
# compiles for a user. The experiments, and what goes through every chart and
# configuration, compile far more than they compute, so these compile cheaply.
# What -m chooses by: pyproject.toml, markers. A worker keeps to neighbours, so
# what a module makes for its tests is mostly made once, and takes over late ones.
xdist := -n auto --dist worksteal
test: $(VENV)/.dev
	$(BIN)/python -m pytest $(xdist) -m 'not (slow or cheap_compile)'
	$(BIN)/python -m pytest $(xdist) -m 'cheap_compile and not slow' --fast-compile tests

# What a function or a class promises, compiled cheaply, on fewer
# drawn examples, without the doctests.
test-unit: $(VENV)/.dev
	HYPOTHESIS_PROFILE=fewer $(BIN)/python -m pytest $(xdist) --fast-compile \
	  -m 'not (slow or processes or docs or whole_runs or battery)' tests

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# It fails on any warning. The variable is against an advertisement.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'The site: build/site/index.html'

docs-serve: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# Where the variable MNIST names the folder of its files, MNIST is measured too;
# without it, what is on record of it stays as it is.
mnist := $(if $(MNIST),--mnist $(MNIST))
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks
	$(BIN)/python benchmarks/batch_size_validation.py $(mnist) \
	  --out benchmarks/batch_size_validation.jsonl

# What is on record in results/ is not repeated.
workloads := stationary-digits stationary-fashion sampling-bias imbalance \
  label-noise drift-labels drift-pixels drift-gradual drift-text input-bound
results: $(VENV)/.experiments
	for workload in $(workloads); do \
	  $(BIN)/isgd-jax compare $$workload --out results || exit; done
	$(BIN)/isgd-jax compare ablation --seeds 3 --out results
	$(BIN)/isgd-jax demonstrate --out results
	$(if $(mnist),$(BIN)/isgd-jax demonstrate $(mnist) --out results)
	$(BIN)/isgd-jax report results
	$(BIN)/python docs/update_readme.py

# The outputs that are committed. On a machine with nothing else to do: two of
# them print seconds.
notebooks: $(VENV)/.dev
	$(BIN)/python notebooks/setup_cell.py
	$(BIN)/python notebooks/execute.py
	$(BIN)/ruff check notebooks
	$(BIN)/ruff format --check notebooks

wheel: $(VENV)/.made
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/isgd_jax-*.whl

clean:
	rm -rf $(VENV) build dist

# A folder that an interrupted installation left is made anew.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11: pass a newer one, as in 'make test PYTHON=python3.12'." >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.experiments $(VENV)/.dev $(VENV)/.docs: $(VENV)/.%: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@
