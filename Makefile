# make demo   the whole job on scenes that vary: collect, pretrain, posttrain, plan, one report;
#             make demo ARGS=recipe=none takes one plain scene, in a quarter of the time
# make test   all tests, on up to four cores; make test ARGS='-m "not slow"' leaves trainings and end-to-end runs out
# make lint   linter, types and import contracts
# make docs   the documents as a site, in build/site; dead links are errors
# Each sets everything up by itself. ARGS="..." goes to the command, PYTHON=... chooses the interpreter.

# Without compiled modules every process would compile torch's sources anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint docs setup

demo: setup
	.venv/bin/python -m commands demo recipe=varied $(ARGS)

test: setup
	.venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: setup
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy
	.venv/bin/lint-imports

docs: setup
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict $(ARGS)

setup:
	@PYTHON="$(PYTHON)" sh tools/setup.sh
