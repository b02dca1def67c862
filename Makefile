# Everything a fresh machine needs: Python >= 3.11, make and the package index.
PYTHON ?= python3
BIN := .venv/bin
DEMO_DIR ?= dictionaries/demo

# One environment for each folder of tests/peers: the requirements of the peers exclude one another.
PEERS := $(patsubst tests/peers/%/requirements.txt,%,$(wildcard tests/peers/*/requirements.txt))

.PHONY: setup demo test test-peers $(PEERS:%=test-peers-%) format schema pages docs browser clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

# The main job on the packaged default model and text, then a look at the result.
demo: setup
	$(BIN)/ep build --max-tokens 120_000 --out $(DEMO_DIR) --resume
	$(BIN)/ep show $(DEMO_DIR)

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest

# Against the real packages of other tools; `make test` skips these tests. One of them: make test-peers-sae_lens
test-peers: $(PEERS:%=test-peers-%)

$(PEERS:%=test-peers-%): test-peers-%: .venvs/%/.ready
	.venvs/$*/bin/python -m pytest tests/peers/$* --override-ini filterwarnings=default --disable-warnings

.venvs/%/.ready: tests/peers/%/requirements.txt
	$(PYTHON) -m venv .venvs/$*
	.venvs/$*/bin/python -m pip install --quiet --requirement $<
	[ ! -f $(<D)/no-deps.txt ] || .venvs/$*/bin/python -m pip install --quiet --no-deps --requirement $(<D)/no-deps.txt
	.venvs/$*/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

.PRECIOUS: .venvs/%/.ready

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Figures and the generated parts of README.md, from committed results.
pages: setup
	$(BIN)/python docs/pages.py
	$(BIN)/python docs/concept_figures.py
	$(BIN)/python docs/downloads.py

# The documentation as a site, in site/. Its tools have an environment of their own.
docs: .venvs/docs/.ready
	NO_MKDOCS_2_WARNING=1 .venvs/docs/bin/python -m mkdocs build --strict

.venvs/docs/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venvs/docs
	.venvs/docs/bin/python -m pip install --quiet --constraint constraints.txt "pip>=25.1"
	.venvs/docs/bin/python -m pip install --quiet --constraint constraints.txt --group docs
	touch $@

schema: setup
	$(BIN)/python docs/schemas.py

# Browser tests need Chromium; without one they are skipped, saying so.
browser:
	command -v chromium || command -v google-chrome || (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium)

clean:
	rm -rf .venv .venvs dist site
