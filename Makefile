# `make demo` and `make test` work in a fresh clone: they make .venv, install lcx into it, and reuse it afterwards.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.lcx-installed
# Tests run in as many processes as WORKERS says, one thread each unless OMP_NUM_THREADS says otherwise; 0 runs them in one.
WORKERS ?= 2
# Tests start hundreds of processes: where nothing keeps bytecode, each compiles lcx anew (a second of CPU).
export PYTHONDONTWRITEBYTECODE :=
# The files of a test stay together in one worker, so that what their fixtures make is made once.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 10

.DEFAULT_GOAL := help
.PHONY: help venv demo test slow fuzz faults nightly audit lint docs format completions clean

help:  ## what there is to make
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lcx needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

venv: $(STAMP)  ## .venv with lcx and its test tools

demo: venv  ## train a tiny model, bend it, cure it with IN2, show the curves (minutes, no GPU)
	$(BIN)/lcx demo

test: venv  ## the quick tests (under 5 minutes on 2 cores)
	$(PYTEST)

slow: venv  ## real processes, servers, wheels, kills, and each demo once (under 15 minutes)
	$(PYTEST) -m "slow and not nightly"

fuzz: venv  ## odd and damaged inputs: a table of what was tried (LCX_FUZZ=1000 draws more)
	LCX_FUZZ=$${LCX_FUZZ:-200} $(PYTEST) --dist load -m slow tests/fuzz

faults: venv  ## kills at named points, cuts, flipped bits, full disks, servers that fail: a table of what was lost
	$(PYTEST) -m "not nightly" tests/slow/test_kill.py tests/slow/test_kill_eval.py tests/slow/test_kill_stages.py \
		tests/slow/test_damage.py tests/work tests/slow/test_engines.py \
		tests/llm/test_faults.py \
		tests/core/test_run_folder.py

nightly: venv  ## every seed of the demos, and what takes longest
	$(PYTEST) -m nightly

# What is known of the versions here; without the database in reach (a mirror may lack it) nothing is said but that.
audit: venv
	@said=$$(timeout 60 $(BIN)/pip-audit --local --skip-editable --progress-spinner off --timeout 5 2>&1); \
	if echo "$$said" | grep -q '^Found '; then echo "$$said"; exit 1; fi; \
	if echo "$$said" | grep -q '^No known' && ! echo "$$said" | grep -q 'could not be audited'; \
	then echo "pip-audit: $$(echo "$$said" | grep -m1 '^No known')"; \
	else echo "pip-audit: its database is out of reach; not audited"; fi

# A new advisory about somebody's package is told, and is no fault of the change that is being checked.
lint: venv  ## ruff, mypy, the arrows between rooms, bandit, and pip-audit where its database can be had
	@$(MAKE) --no-print-directory audit || echo "pip-audit: see above; \`make audit\` fails until it is mended"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive lcx plugins

docs: venv  ## the guides as a site in site/, with links checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

format: venv  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

completions: venv  ## regenerate completions/, the completion table and docs/settings.md
	$(BIN)/python -m lcx.cli.completion
	$(BIN)/python -m lcx.cli.reference

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
