# Everything a fresh machine needs: Python >= 3.11, make and the package index.
PYTHON ?= python3
BIN := .venv/bin
DEMO_DIR ?= dictionaries/demo

# One environment for each folder of tests/peers: the requirements of the peers exclude one another.
PEERS := $(patsubst tests/peers/%/requirements.txt,%,$(wildcard tests/peers/*/requirements.txt))

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: help setup demo test sweep test-peers $(PEERS:%=test-peers-%) format schema pages notebooks docs dist pythons floor floor-pins browser clean

setup: .venv/.ready ## an environment with everything for work on this repository

.venv/.ready: pyproject.toml experiments/pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --editable experiments --group dev
	touch $@

# The main job on the packaged default model and text, then a look at the result.
demo: setup ## build and show dictionaries of the packaged model
	$(BIN)/ep build --max-tokens 120_000 --out $(DEMO_DIR) --resume
	$(BIN)/ep show $(DEMO_DIR)

test: setup ## lint, types and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Every causal language model class of transformers, tiny; writes docs/models-tried.md.
sweep: setup ## every causal language model class, tiny (slow)
	$(BIN)/pytest tests/sweep -m "sweep or not sweep"

# Against the real packages of other tools; `make test` skips these tests. One of them: make test-peers-sae_lens
test-peers: $(PEERS:%=test-peers-%) ## tests against other tools, each in an environment of its own

$(PEERS:%=test-peers-%): test-peers-%: .venvs/%/.ready
	.venvs/$*/bin/python -m pytest tests/peers/$* --override-ini filterwarnings=default --disable-warnings

.venvs/%/.ready: tests/peers/%/requirements.txt
	$(PYTHON) -m venv .venvs/$*
	.venvs/$*/bin/python -m pip install --quiet --requirement $<
	[ ! -f $(<D)/no-deps.txt ] || .venvs/$*/bin/python -m pip install --quiet --no-deps --requirement $(<D)/no-deps.txt
	.venvs/$*/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

.PRECIOUS: .venvs/%/.ready

format: setup ## sort imports and lay out code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Figures and the generated parts of README.md, from committed results.
pages: setup ## figures and generated pages, from committed results
	$(BIN)/python tools/pages.py
	$(BIN)/python tools/concept_figures.py
	$(BIN)/python tools/downloads.py

# Run the notebooks for real (a few minutes each) and keep what they print.
notebooks: setup ## run the notebooks and keep what they print
	$(BIN)/python tools/notebooks.py

# The documentation as a site, in site/. Its tools have an environment of their own.
docs: .venvs/docs/.ready ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 .venvs/docs/bin/python -m mkdocs build --strict

.venvs/docs/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venvs/docs
	.venvs/docs/bin/python -m pip install --quiet --constraint constraints.txt "pip>=25.1"
	.venvs/docs/bin/python -m pip install --quiet --constraint constraints.txt --group docs
	touch $@

schema: setup ## the JSON schemas of docs/
	$(BIN)/python tools/schemas.py

# What is released, in dist/: built, looked into, installed into an empty environment and used.
dist: .venvs/release/.ready ## what is released, built and tried
	rm -rf dist .venvs/wheel
	.venvs/release/bin/python -m build
	.venvs/release/bin/python tools/contents.py dist
	$(PYTHON) -m venv .venvs/wheel
	.venvs/wheel/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venvs/wheel/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd dist && ../.venvs/wheel/bin/python -c "import exemplar_partitioning as ep; print(ep.__file__)"
	.venvs/wheel/bin/ep --help
	.venvs/wheel/bin/ep show tests/golden/schema-1.0

# Which wheels the index has of every pin, for every Python that is supported.
pythons: .venvs/release/.ready ## which wheels there are of every pin
	.venvs/release/bin/python tools/pythons.py

.venvs/release/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venvs/release
	.venvs/release/bin/python -m pip install --quiet --constraint constraints.txt "pip>=25.1"
	.venvs/release/bin/python -m pip install --quiet --constraint constraints.txt --group release
	touch $@

# The laws, models, files and command line with every dependency as old as pyproject.toml allows (torch is the pinned one).
FLOOR_TESTS := tests/core/test_leader.py tests/core/test_calibration.py tests/core/test_dictionary.py tests/core/test_estimator.py \
  tests/folder/test_store.py tests/building/test_build.py tests/models/test_load.py tests/models/test_capture.py \
  tests/act/test_interventions.py tests/text/test_documents.py tests/cli/test_cli.py tests/cli/test_pages.py \
  tests/cli/test_show.py tests/show/test_explorer_api.py tests/show/test_report.py
floor: .venvs/floor/.ready ## tests with the oldest dependencies allowed
	.venvs/floor/bin/python -m pytest $(FLOOR_TESTS) --override-ini filterwarnings=default \
	  --disable-warnings -m "not packaged"

.venvs/floor/.ready: .venvs/release/.ready constraints-floor.txt pyproject.toml
	$(PYTHON) -m venv .venvs/floor --without-pip
	.venvs/release/bin/python -m pip --python .venvs/floor/bin/python install --quiet \
	  --constraint constraints-floor.txt torch
	.venvs/release/bin/python -m pip --python .venvs/floor/bin/python install --quiet \
	  --constraint constraints-floor.txt --editable ".[explorer,figures,labels,datasets]" --group dev
	touch $@

# Find those oldest versions that go together. CUDA's packages are torch's own affair.
floor-pins: .venvs/release/.ready ## find those oldest versions
	grep ^torch== constraints.txt > .venvs/torch.txt
	.venvs/release/bin/uv pip compile --quiet pyproject.toml --all-extras --group dev --resolution lowest-direct \
	  --constraint .venvs/torch.txt --python-version 3.11.9 --no-annotate --no-header --output-file .venvs/floor.txt
	grep --extended-regexp --invert-match "^(nvidia|cuda|triton)" .venvs/floor.txt > constraints-floor.txt

# Browser tests need Chromium; without one they are skipped, saying so.
browser: ## install Chromium, if there is none
	command -v chromium || command -v google-chrome || (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium)

clean: ## remove environments and what was built
	rm -rf .venv .venvs dist site
