# make demo   the whole job on this machine: collect, pretrain, posttrain, plan, one report
# make test   the whole test suite
# make lint   linter, types and import contracts
# Each sets everything up by itself. ARGS="..." goes to the command, PYTHON=... chooses the interpreter.

.PHONY: demo test lint setup

demo: setup
	.venv/bin/python -m commands demo $(ARGS)

test: setup
	.venv/bin/python -m pytest $(ARGS)

lint: setup
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy
	.venv/bin/lint-imports

setup:
	@PYTHON="$(PYTHON)" sh tools/setup.sh
