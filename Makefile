PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# salesforce-lavis needs a transformers that has no wheels for newer versions of Python.
LAVIS_PYTHON ?= python3.11
LAVIS := .venv-lavis
GARMENTS := --dataset FashionIQ --data-path garments --cache-features garments_features
RECIPES := --grid configs/ablations/recipes.yaml --config configs/tiny.yaml --num-epochs 4 --batch-size 256 \
	--learning-rate 2e-3 --model.gated-fusion.strategy none --no-save-best --no-save-training --seeds 5

.PHONY: help demo test recall recipes test-lavis check docs format clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.page ## Train on synthetic scenes, print a table, draw gate maps, serve a page (about 10 minutes)
	$(BIN)/python -m gatedcir demo --output demo --serve

test: $(VENV)/.dev ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

recall: $(VENV)/.runtime ## Train one small run; fail if its recall leaves its band
	OMP_NUM_THREADS=1 $(BIN)/python scripts/check_recall.py

recipes: $(VENV)/.runtime ## Measure the recipes of docs/recipes.md on scenes and garments (days on two cores)
	test -e scenes || $(BIN)/python -m gatedcir synthetic --layout cirr --output scenes --seed 20 --train 28000 --val 4000 --test 50
	test -e garments || $(BIN)/python -m gatedcir synthetic --layout fashioniq --output garments --seed 20 --train 12000 --val 3000 --test 20
	$(BIN)/python -m gatedcir ablate $(RECIPES) --dataset CIRR --data-path scenes --cache-features features --output runs/recipes
	$(BIN)/python -m gatedcir ablate $(RECIPES) $(GARMENTS) --output runs/recipes-garments

test-lavis: $(VENV)/.runtime $(LAVIS)/.installed ## Compare with salesforce-lavis itself (docs/lavis.md)
	rm -rf build/lavis
	$(LAVIS)/bin/python scripts/with_lavis/lavis_reference.py --output build/lavis
	$(BIN)/python scripts/with_lavis/compare_with_lavis.py --reference build/lavis

check: $(VENV)/.dev ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs ## Build the site in build/docs; warnings are errors
	$(BIN)/python -m sphinx --quiet -W --keep-going -n docs build/docs

format: $(VENV)/.dev ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove the environments, the demo and caches
	rm -rf $(VENV) $(LAVIS) demo build docs/api .mypy_cache .ruff_cache .pytest_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.page
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

$(VENV)/.page: requirements-page.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet -r requirements-page.txt
	touch $@

$(VENV)/.docs: requirements-docs.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet -r requirements-docs.txt
	touch $@

# timm and salesforce-lavis ask for torchvision and many packages that BLIP-2 does not use.
$(LAVIS)/.installed: requirements-lavis.txt pyproject.toml
	@$(LAVIS_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed; name it with make LAVIS_PYTHON=..." >&2; exit 1; }
	$(LAVIS_PYTHON) -m venv $(LAVIS)
	$(LAVIS)/bin/python -m pip install --quiet -r requirements-lavis.txt
	$(LAVIS)/bin/python -m pip install --quiet --no-deps salesforce-lavis==1.0.2 timm==0.4.12
	$(LAVIS)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@
