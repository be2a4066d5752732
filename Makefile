# Targets for people and for continuous integration; `make help` lists them.
# On a machine without a local CPU wheel of torch, avoid the download of the CUDA build by
#   make test PIP_EXTRA="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_EXTRA ?=
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip install -c constraints.txt $(PIP_EXTRA)
# What an install depends on: a change of one of these installs again, nothing else does.
PACKAGING := setup.py pyproject.toml constraints.txt

XVFB := xvfb-run -a -s "-screen 0 1600x1000x24"

.PHONY: help demo test test-core test-plugin lint docs screenshots gui clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    simulate a breathing series, align it, write demo/report.html"
	@echo "make test    core tests, then plugin tests in a virtual display (where xvfb-run exists)"
	@echo "make lint    ruff and mypy"
	@echo "make docs    HTML documentation in docs/_build/html"
	@echo "make screenshots   pictures of the plugin in docs/images, taken anew in a virtual display"
	@echo "make gui     napari with the plugin"
	@echo "make clean   remove the environment and everything generated"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and pinned: any other order may fetch gigabytes of CUDA libraries before the pin is seen.
$(STAMPS)/core: $(PACKAGING) | $(BIN)/python
	$(PIP) torch
	$(PIP) -e .
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/test: $(STAMPS)/core
	$(PIP) -e ".[test]"
	@touch $@

# The Qt binding and pytest-qt serve the tests and `make gui` only; they are no dependencies of the package.
$(STAMPS)/plugin: $(STAMPS)/test
	$(PIP) -e ".[plugin]" PyQt6 pytest-qt
	@touch $@

$(STAMPS)/docs: $(STAMPS)/core
	$(PIP) -e ".[docs]"
	@touch $@

demo: $(STAMPS)/core
	$(BIN)/r2n2 simulate -o demo/input --overwrite
	$(BIN)/r2n2 register demo/input/series.* -o demo --landmarks demo/input/landmarks.csv --overwrite
	@test -s demo/report.html && echo "Open demo/report.html"

# Core and plugin side by side, a thread each: both halves are shorter than what one after the other takes two cores. The plugin's
# tests are seen as they run, the core's when they are done; without a display there are the core's alone.
test: $(STAMPS)/test
	@if ! command -v xvfb-run >/dev/null 2>&1; then $(MAKE) --no-print-directory test-core && \
	  echo "SKIPPED plugin tests: xvfb-run is missing (Debian: apt-get install xvfb xauth libxcb-icccm4 libxcb-keysyms1)"; \
	else $(MAKE) --no-print-directory $(STAMPS)/plugin && export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 && log=$$(mktemp) && \
	  { $(MAKE) --no-print-directory test-core >"$$log" 2>&1 & core=$$!; $(MAKE) --no-print-directory test-plugin; plugin=$$?; \
	    wait $$core; core=$$?; cat "$$log"; rm -f "$$log"; [ $$core -eq 0 ] && [ $$plugin -eq 0 ]; }; fi

# napari and pytest-qt register as pytest plugins where installed; the core is tested without them.
test-core: $(STAMPS)/test
	$(BIN)/python -m pytest tests --ignore=tests/plugin -p no:napari -p no:pytest-qt $(PYTEST_ARGS)

test-plugin: $(STAMPS)/plugin
	settings=$$(mktemp -d) && trap 'rm -rf "$$settings"' EXIT && \
	QT_API=pyqt6 PYTEST_QT_API=pyqt6 NAPARI_CONFIG="$$settings/settings.yaml" $(XVFB) \
	  $(BIN)/python -m pytest tests/plugin $(PYTEST_ARGS)

lint: $(STAMPS)/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMPS)/docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

# The script sets its own settings and weights aside, so that none of the person's are read or written.
screenshots: $(STAMPS)/plugin
	QT_API=pyqt6 $(XVFB) $(BIN)/python docs/make_screenshots.py
	QT_API=pyqt6 $(XVFB) $(BIN)/python docs/make_volume_screenshots.py

gui: $(STAMPS)/plugin
	QT_API=pyqt6 $(BIN)/napari -w napari-r2n2

clean:
	rm -rf $(VENV) demo build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info napari_r2n2/napari.yaml
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
