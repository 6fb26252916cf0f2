# make demo and make test set up their own environment; any Python from 3.11 on will do.
PYTHON ?= python3
VENV ?= .venv
# A file of versions to install instead of the newest ones.
CONSTRAINTS ?=
# Processes that run the tests; a file of tests stays within one.
JOBS ?= 2

BIN = $(VENV)/bin
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
# The tests of the library, file by file, and its first notebook.
LIBRARY = $(wildcard $(patsubst advjax/%,tests/test_%.py,$(basename $(wildcard advjax/*)))) \
  $(addprefix tests/test_,$(addsuffix .py,auto_attack contracts frameworks hostile_input lowering networks projections))
CORE = $(LIBRARY) tests/test_layers.py
QUICKSTART = tests/test_notebooks.py -k quickstart

.PHONY: demo test test-all test-core test-library test-oldest test-colab test-setup \
 mutants lint report docs notebooks clean

demo: $(VENV)/installed
	$(BIN)/python -m experiments.demo

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST)

# Slow and rare tests as well.
test-all: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m ""

test-core: $(VENV)/installed
	$(PYTEST) $(CORE)
	$(PYTEST) $(QUICKSTART)

# The library's tests alone, such as under JAX_ENABLE_X64=1; CONTRIBUTING.md has the list.
test-library: $(VENV)/installed
	$(PYTEST) $(LIBRARY)

# The lowest versions that pyproject.toml admits; NumPy 2.0 has no wheels for Python 3.13.
test-oldest:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo 'test-oldest needs Python 3.11 or 3.12: make test-oldest PYTHON=python3.12'; exit 2; }
	$(MAKE) VENV=.venv-oldest CONSTRAINTS=tests/oldest.txt .venv-oldest/installed
	.venv-oldest/bin/python -m pytest -n $(JOBS) --dist loadfile

# Colab has Python 3.13.
test-colab:
	$(MAKE) test-core VENV=.venv-colab CONSTRAINTS=tests/colab.txt

# The notebooks as Colab meets them: its jax, no advjax, and the set-up cell unchanged.
EMPTY = .venv-empty/bin
test-setup:
	rm -rf .venv-empty
	$(PYTHON) -m venv .venv-empty
	$(EMPTY)/python -m pip install --quiet -c tests/colab.txt jax flax numpy ipykernel nbclient
	cd colab && for notebook in *.ipynb; do \
	  ADVJAX=git+file://localhost$(CURDIR) ../$(EMPTY)/jupyter execute --timeout=1200 $$notebook || exit 1; \
	done
	$(EMPTY)/python -c 'import jax; assert f"jax=={jax.__version__}\n" in open("tests/colab.txt").read()'

# All committed results as one page.
report: $(VENV)/installed
	$(BIN)/python -m experiments.report experiments/results --output=build/report.html

docs: $(VENV)/installed
	$(BIN)/python docs/build.py build/docs

# The notebooks from their scripts.
notebooks: $(VENV)/installed
	$(BIN)/python colab/pair.py

# Faults of the pure modules, and which of them no test notices; tests/mutants.py.
mutants: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[mutants]'
	JOBS=$(JOBS) $(BIN)/python tests/mutants.py

lint: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-oldest .venv-colab .venv-empty build .pytest_cache .ruff_cache

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'advjax needs Python 3.11 or newer: make PYTHON=/path/to/python3.12 …'; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  $(addprefix -c ,$(CONSTRAINTS)) -e '.[test]'
	touch $@
