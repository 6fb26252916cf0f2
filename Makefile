# make demo and make test set up their own environment; any Python from 3.11 on will do.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
# Processes that run the tests; a file of tests stays within one.
JOBS ?= 2

.PHONY: demo test test-oldest lint report docs notebooks clean

demo: $(VENV)/installed
	$(VENV)/bin/python -m experiments.demo

test: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile

test-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest -n $(JOBS) --dist loadfile

# All committed results as one page.
report: $(VENV)/installed
	$(VENV)/bin/python -m experiments.report experiments/results \
	  --guide=experiments/README.md --output=build/report.html

docs: $(VENV)/installed
	$(VENV)/bin/python docs/build.py build/docs

# The notebooks from their scripts.
notebooks: $(VENV)/installed
	$(VENV)/bin/python colab/pair.py

lint: $(VENV)/installed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(OLDEST) build .pytest_cache .ruff_cache

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'advjax needs Python 3.11 or newer: make PYTHON=/path/to/python3.12 …'; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

# The lowest versions that pyproject.toml admits; NumPy 2.0 has no wheels for Python 3.13.
$(OLDEST)/installed: pyproject.toml tests/oldest.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo 'test-oldest needs Python 3.11 or 3.12: make test-oldest PYTHON=python3.12'; exit 2; }
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c tests/oldest.txt -e '.[test]'
	touch $@
