# Hands-On Brain Foundation Models. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install book test test-code test-notebooks test-book run lab serve lint coursework publish release clean

PYTHON  ?= python3
PROFILE ?= embedded
# Extra options for pip, for example a CPU-only index for torch (see README).
PIP_ARGS ?=
# Options for `make run`, for example ARGS="-p drop_rate=0.3 --resume".
ARGS ?=
# The public repository, for `make publish`.
REPO ?=
PORT ?= 8000

VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
EXTRAS := book,test,dev,llm,teach,cluster
TORCH   = $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
# Two notebooks at a time where there are two cores and 4 GB for each, otherwise one after the other.
JOBS   ?= $(shell $(PY) -c "import os, psutil; print(max(1, min(2, os.cpu_count() or 1, psutil.virtual_memory().total // (5 * 2**30))))" 2>/dev/null || echo 1)

# Small matrices: one BLAS thread is faster than two that wait for each other.
export OPENBLAS_NUM_THREADS ?= 1
# Threads that wait spin only briefly: long spinning makes a chapter several times slower on shared cores.
export GOMP_SPINCOUNT ?= 20000
export PYTHONUNBUFFERED := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Frozen modules of the standard library confuse the debugger in each kernel; this only silences that.
export PYDEVD_DISABLE_FILE_VALIDATION := 1

help:  ## list the targets
	@echo "make TARGET [PROFILE=embedded|public|full] [PYTHON=python3.12] [PIP_ARGS=...]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 18

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "No '$(PYTHON)' here. Install Python 3.11 or newer, or name one: make PYTHON=python3.12"; exit 1; }
	@test -x $(PY) || $(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed and $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12" % v[:2])'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Could not make $(VENV) (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "Installing into $(VENV) (a few minutes the first time)"
	@$(PY) -m pip install -q $(PIP_ARGS) $(TORCH) -c constraints.txt
	@$(PY) -m pip install -q $(PIP_ARGS) -e '.[$(EXTRAS)]' -c constraints.txt
	@touch $(STAMP)

install: $(STAMP)  ## make .venv and install (the other targets do it too)

book: $(STAMP)  ## execute what changed and build the book into _build/html
	@$(PY) -m helpers.build --profile $(PROFILE)

test: test-code test-notebooks test-book  ## every check: ruff, unit, chapters, notebooks, nbval, book

test-code: $(STAMP)  # ruff, unit, chapter and notebook-lint tests
	@$(PY) -m ruff check src tests notebooks
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) --dist loadscope \
	  $(wildcard tests/unit tests/faults tests/chapters tests/notebooks tests/coursework)

test-notebooks: $(STAMP)  # every cell runs; cells tagged nbval-check-output give the committed output
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q --nbval-lax --nbval-current-env \
	  -n $(JOBS) --dist loadscope $(wildcard notebooks/*.ipynb)

test-book: $(STAMP)  # the built pages, in a browser; builds them first when they are out of date
	@$(PY) -m pytest -q tests/book

run: $(STAMP)  ## run one chapter: make run CHAPTER=03_brainmass PROFILE=public ARGS="-p drop_rate=0.3"
	@test -n "$(CHAPTER)" || { echo "Say which chapter: make run CHAPTER=03_brainmass"; exit 2; }
	@$(PY) -m helpers.run $(CHAPTER) --profile $(PROFILE) $(ARGS)

lab: $(STAMP)  ## open the notebooks in JupyterLab (as root, in a container: ARGS=--allow-root)
	@$(PY) -m jupyter lab notebooks $(ARGS)

serve: $(STAMP)  ## serve the built book on this machine (PORT=8000)
	@test -f _build/html/index.html || { echo "No book yet: run make book first"; exit 1; }
	@echo "http://localhost:$(PORT) (Ctrl-C ends it)"
	@$(PY) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

lint: $(STAMP)  ## ruff, and the notebook rules
	@$(PY) -m ruff check src tests notebooks
	@$(PY) -m pytest -q tests/notebooks

coursework: $(STAMP)  ## the exercises for students, without solutions, into _build/coursework
	@$(PY) -m helpers.coursework release

publish: $(STAMP)  ## set the public address everywhere: make publish REPO=owner/name
	@test -n "$(REPO)" || { echo "Say where: make publish REPO=owner/name"; exit 2; }
	@$(PY) -m helpers.publish address $(REPO)

release: book  ## the built pages as one zip with its checksum, in _build/release
	@$(PY) -m helpers.publish release

clean:  ## remove the built book and the outputs of runs (not .venv, not the data)
	@rm -rf _build _runs .pytest_cache .ruff_cache .hypothesis
