# make lab    creates the environment in .venv, installs the course, opens JupyterLab on lesson 00
# make test   the same set-up, then everything that the continuous integration runs
#
# The set-up is remembered by a stamp file: a second run starts at once.
# Other Python:      make lab PYTHON=python3.12
# No browser:        make lab LAB_ARGS=--no-browser        (anything that JupyterLab takes)

MIN_PYTHON := 3, 11
# The first interpreter that is new enough; PYTHON=... overrides it.
PYTHON ?= $(or $(shell for p in python3 python python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < ($(MIN_PYTHON)))' >/dev/null 2>&1 \
  && { echo $$p; break; }; done),python3)
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS := dev,peers,site,teach
STAMP := $(VENV)/.installed
WORKERS ?= 2
ANNOUNCEMENTS := @jupyterlab/apputils-extension:announcements
LAB_ARGS ?=
PYTEST_ARGS ?=

# Kernels come from this environment, whatever others are installed for the user.
export JUPYTER_PREFER_ENV_PATH := 1
export PYTHONHASHSEED := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# After installation nothing may ask the network: see diffusion_lab/_offline.py.
LOOPBACK := $(if $(filter Darwin,$(shell uname)),lo0,lo)
SEALED := DIFFUSION_LAB_OFFLINE=1 HF_HUB_OFFLINE=1 GLOO_SOCKET_IFNAME=$(LOOPBACK) OMP_NUM_THREADS=1
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=300 \
  --nbval-sanitize-with=tests/nbval_sanitize.cfg

# A test that hangs fails, and says where: the longest takes some two minutes.
HANGS := --timeout=1200

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup lab test lint test-package test-lessons test-browser lessons site slides bench coverage mutants clean distclean

help:
	@echo "make lab           install the course in $(VENV) and open JupyterLab on lesson 00"
	@echo "make test          install it and run all checks: style, package, lessons"
	@echo "make test-package  the package's tests alone;  make test-lessons  the notebooks alone"
	@echo "make test-browser  the lessons in JupyterLab in a real Chromium (not part of make test)"
	@echo "make lessons       build the notebooks again from notebooks/source"
	@echo "make site          the lessons and the reference as web pages in build/site, from what is stored"
	@echo "make slides        write the slides of the lessons that have some, for teachers"
	@echo "make bench         run the benchmarks and write their report"
	@echo "make coverage      which lines of the core its tests reach: fails under 95%"
	@echo "make mutants       put the classic slips into the package: does a test notice each?"
	@echo "make clean         remove caches and build outputs;  make distclean  $(VENV) as well"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < ($(MIN_PYTHON)))' 2>/dev/null || { \
	  echo "diffusion_lab needs Python 3.11 or newer, and '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1 || echo not installed)."; \
	  echo "Install one and say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; \
	  exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) could not create an environment (on Debian: apt install python3-venv)."; \
	  exit 1; }
	@echo "Installing the course and its dependencies in $(VENV): a few gigabytes, some minutes, once."
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$(EXTRAS)]"
	@# Only its module `sampling` is used, which needs nothing that is not there already.
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps k-diffusion
	@# JupyterLab asks on first start whether it may fetch news: in this environment it does not.
	@$(BIN)/jupyter labextension disable --level=sys_prefix $(ANNOUNCEMENTS) >/dev/null 2>&1 || true
	@touch $@

# A working copy of the lesson, in my/; the file browser shows the whole repository.
lab: setup
	$(BIN)/diffusion-lab lesson open 00 -- $(LAB_ARGS)

test: lint test-package test-lessons

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The package's tests: the fast ones first, those marked slow last (tests/conftest.py).
test-package: setup
	$(SEALED) $(BIN)/python -m pytest $(HANGS) -n $(WORKERS) --dist loadfile \
	  --no-loadscope-reorder $(PYTEST_ARGS)

# Every cell of every lesson, learner's and solution version, at the smoke level.
# One notebook must stay on one worker (loadfile): its cells share a kernel.
test-lessons: setup
	$(SEALED) DIFFUSION_LAB_LEVEL=smoke $(BIN)/python -m pytest $(NBVAL) $(HANGS) \
	  -n $(WORKERS) --dist loadfile $(PYTEST_ARGS) notebooks

# JupyterLab in a real Chromium, where there is one; not part of the continuous integration.
test-browser: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[browser]"
	$(BIN)/python -m pytest -q $(PYTEST_ARGS) tests/browser/lab.py

lessons: setup
	$(BIN)/diffusion-lab lesson build
	$(BIN)/python -m teaching.page

slides: setup
	$(BIN)/python -m teaching.slides

# Nothing is run and nothing is fetched; a warning is an error.
site: setup
	$(SEALED) $(BIN)/python site/build.py
	@echo "open build/site/index.html"

bench: setup
	$(BIN)/diffusion-lab bench

# The core, line by line and branch by branch, by the tests that are about it.
CORE := schedules forward denoisers exact objectives bound walk grids generate checkpoints pictures \
  device errors files samplers scheduling scores guidance nets metrics data training
ELSEWHERE := course_% cli% environment install layout mutants offline readme site
coverage: setup
	$(SEALED) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
	  $(CORE:%=--cov=diffusion_lab.%) --cov-report=term-missing:skip-covered --cov-report=html \
	  --cov-fail-under=95 $(PYTEST_ARGS) \
	  $(filter-out $(ELSEWHERE:%=tests/test_%.py),$(wildcard tests/test_*.py))

# The classic slips, each put into the package alone: a test must notice it (tests/mutants.toml).
mutants: setup
	$(SEALED) $(BIN)/python -m tests.mutation --workers $(WORKERS)

clean:
	rm -rf build dist htmlcov .coverage .coverage.* .pytest_cache .ruff_cache *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
	find . -path ./$(VENV) -prune -o -name .ipynb_checkpoints -type d -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
