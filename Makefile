PYTHON ?= python3
BIN := .venv/bin
# chosen by hand, because rounding and speed depend on it; `make lock` chooses the rest
TORCH := torch==2.13.0
# also where pip builds the package; a newer pip reads the second name there
INSTALL := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	$(BIN)/python -m pip --disable-pip-version-check install

.PHONY: help demo studio test study fuzz bench docs lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: .venv/.package ## learn digits, sample them with five methods, write runs/demo/report.html
	$(BIN)/scorefield demo

studio: .venv/.studio ## see a score and steer its samplers in the browser
	$(BIN)/scorefield studio

# Four workers for two cores: some run while others wait, and next to other work they are a larger share.
# One thread per worker: more would compete for the cores. glibc keeps the memory of large tensors,
# which it would otherwise return to the system and fault in again at each step of a sampler.
# mypy is one process, so the tests run at the same time.
test study fuzz: export OMP_NUM_THREADS = 1
# workers and the commands that they try share compiled modules, also where that is switched off
test: export PYTHONDONTWRITEBYTECODE =
demo test study: export MALLOC_TRIM_THRESHOLD_ = 268435456
demo test study: export MALLOC_MMAP_THRESHOLD_ = 33554432
test: .venv/.tools ## lint, types and tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy & types=$$!; $(BIN)/pytest -n 4 --dist worksteal && wait $$types

study: .venv/.tools ## the slow studies, minutes each
	$(BIN)/pytest -m slow -n 2 -rP

fuzz: .venv/.tools ## 10,000 damaged and hostile inputs for each parser
	$(BIN)/pytest -n 2 --hypothesis-profile=fuzz --hypothesis-show-statistics tests/test_fuzz.py

bench: .venv/.tools ## measure speed; tables are written to benchmarks/results
	$(BIN)/python -m benchmarks all --out benchmarks/results

docs: export OMP_NUM_THREADS = 1
docs: .venv/.docs ## build the site, and run the examples in it; docs/_build/html/index.html
	$(BIN)/sphinx-build -W --keep-going -n docs docs/_build/html

# sphinx-basic-ng, which furo needs, exists as a pre-release only
lock: ## choose the newest version of every package, and write them to constraints.txt
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip --disable-pip-version-check install --quiet uv
	{ sed '/^$$/q' constraints.txt; echo $(TORCH) | .venv-lock/bin/uv pip compile --quiet \
		--universal --python-version 3.10 --prerelease if-necessary --no-header --no-annotate \
		--extra dev --extra docs --constraint - pyproject.toml; } > .venv-lock/constraints.txt
	mv .venv-lock/constraints.txt constraints.txt
	rm -rf .venv-lock

clean: ## remove what make made, except runs/
	rm -rf .venv .venv-lock build dist docs/_build docs/_pictures docs/gallery docs/reference .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Each stamp is written last, so that an interrupted installation is repeated.
.venv/.package: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(INSTALL) -e .
	touch $@

.venv/.studio: .venv/.package
	$(INSTALL) -e '.[studio]'
	touch $@

.venv/.tools: .venv/.package
	$(INSTALL) -e '.[dev]'
	touch $@

.venv/.docs: .venv/.package
	$(INSTALL) -e '.[docs]'
	touch $@
