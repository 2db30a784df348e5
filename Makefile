PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test study fuzz bench clean
.DEFAULT_GOAL := help

help: ## list what can be made
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(READY) ## learn digits, sample them by five ways, write runs/demo/report.html
	$(BIN)/scorefield demo --overwrite

# one thread for each worker, for more would fight over the cores; and glibc is to keep the memory of
# large tensors, which it otherwise gives back and faults in again at each step of a sampler
test study fuzz: export OMP_NUM_THREADS = 1
demo test study: export MALLOC_TRIM_THRESHOLD_ = 268435456
demo test study: export MALLOC_MMAP_THRESHOLD_ = 33554432
test: $(READY) ## lint, types and tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist worksteal

study: $(READY) ## the slow studies, minutes each
	$(BIN)/pytest -m slow -n 2 -rP

fuzz: $(READY) ## 10,000 damaged and hostile inputs for each parser
	$(BIN)/python tests/fuzz.py

bench: $(READY) ## side-by-side measurements
	$(BIN)/scorefield bench all --out benchmarks/results
	@set -e; for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python "$$script"; done

clean: ## remove what make made; runs/ stays
	rm -rf .venv build dist mixture.png frontier_oracles.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# written last, so that an interrupted installation is taken up again
$(READY): requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	touch $@
