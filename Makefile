# make quickstart   install the package into .venv, and run examples/quickstart.py
# make test         install the package with the extra `test` into .venv, then lint, check the format and run the tests
# make test-oldest  run the tests with the oldest versions that are supported, in .venv-oldest
# make test-gpu     run the tests that need a GPU
# make cards        write model_cards/*.md anew, from the records in docs/runs
# make space        install the extra `space`, and start the app of examples/space with the quickstart's model
# make bench        run the benchmarks (see benchmarks/README.md), best on a machine that does nothing else
#                   (BENCH=--quick: small sizes, to see whether they run)
# make wheel        build the wheel and the source archive in dist/
# make docs         build the documentation site in site/, with every warning an error
# make lint         what ruff and mypy (make types) find fault with
# make format, make clean
#
# Another interpreter:  make test PYTHON=python3.12
# Another environment:  make test VENV=/path/to/venv
# Options for pip, such as the smaller CPU build of torch:
#   make quickstart PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
PYTHON_OLDEST ?= $(shell python3.10 --version > /dev/null 2>&1 && echo python3.10 || echo $(PYTHON))
VENV_OLDEST ?= .venv-oldest
PIP_FLAGS ?=
MODEL ?= runs/quickstart

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS)
PACKAGING := setup.py pyproject.toml

.PHONY: quickstart test test-oldest test-gpu cards space bench wheel docs lint types format clean

quickstart: $(VENV)/.installed
	$(BIN)/python examples/quickstart.py

# As many test files run at the same time as there are processors, but at most four: each takes 2 GB of memory.
test: lint
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

# The versions of constraints-oldest.txt, with the oldest Python that is supported where there is one.
test-oldest: $(VENV_OLDEST)/.installed
	$(VENV_OLDEST)/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

test-gpu: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m gpu

# The models of the table in README.md. Each card describes the first seed.
cards: $(VENV)/.installed
	$(BIN)/python -m dedn_hf.publish.card docs/runs/row1-seed*.json --out model_cards/cub50-published-protocol.md
	$(BIN)/python -m dedn_hf.publish.card docs/runs/row2-seed*.json --out model_cards/cub50-published-recipe.md
	$(BIN)/python -m dedn_hf.publish.card docs/runs/row3-seed*.json --out model_cards/cub50-calibrated.md
	$(BIN)/python -m dedn_hf.publish.card docs/runs/row4-seed*.json --out model_cards/cub50-finetuned.md
	$(BIN)/python -m dedn_hf.publish.card docs/runs/row5-seed*.json --out model_cards/cub50-views.md
	$(BIN)/python -m dedn_hf.publish.card docs/runs/quickstart.json --out model_cards/quickstart.md

space: $(VENV)/.installed-space
	$(BIN)/python examples/space/app.py $(MODEL)

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks $(BENCH)

wheel: $(BIN)/python
	$(INSTALL) build
	$(BIN)/python -m build --outdir dist

docs: $(VENV)/.installed-test
	$(BIN)/python -m mkdocs build --strict --quiet

lint: $(VENV)/.installed-test types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Both folders as the one package that is installed, for mypy to see what its users see.
types: $(VENV)/.installed-test
	@rm -rf build/typed && mkdir -p build/typed/dedn_hf
	@ln -s $(CURDIR)/dedn_hf/* $(CURDIR)/modeling build/typed/dedn_hf/
	cd build/typed && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -not -path './$(VENV_OLDEST)/*' -prune -exec rm -rf {} +
	rm -f $(VENV)/.installed $(VENV)/.installed-space $(VENV)/.installed-test $(VENV_OLDEST)/.installed

# These files record when the environment was last installed, so that nothing is installed twice.
$(VENV)/.installed: $(PACKAGING) | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-space: $(PACKAGING) | $(BIN)/python
	$(INSTALL) -e ".[space]"
	@touch $(VENV)/.installed $@

$(VENV)/.installed-test: $(PACKAGING) | $(BIN)/python
	$(INSTALL) -e ".[test]"
	@touch $(VENV)/.installed $(VENV)/.installed-space $@

$(VENV_OLDEST)/.installed: $(PACKAGING) constraints-oldest.txt
	$(PYTHON_OLDEST) -m venv --clear $(VENV_OLDEST)
	$(VENV_OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) \
		--constraint constraints-oldest.txt -e ".[test]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo 'dedn_hf needs Python 3.10 or later, but "$(PYTHON)" is' \
			"$$($(PYTHON) --version 2>&1 || true). Name another one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
