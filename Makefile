# Two commands: `make demo` trains three families and prints a comparison, `make test` runs the tests.
# Each sets up its own .venv on first use.
PYTHON ?= python3

.PHONY: demo test test-gpu test-faults lint measured docs clean

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch .venv/ready

demo: .venv/ready
	.venv/bin/ganbench bench benchmarks/demo.toml --results runs/demo/demo.csv

test: .venv/ready
	.venv/bin/python -m pytest -n auto

# on a machine with a GPU: what only a card can show, then everything else. With an environment at hand and no package index,
# `python -m pytest -n 0 tests/gpu` is the first half
test-gpu: .venv/ready
	.venv/bin/python -m pytest -n 0 tests/gpu
	.venv/bin/python -m pytest -n 4 --ignore tests/gpu

# what goes wrong: kills, signals, full disks, flipped bits; under half an hour on two cores (GANBENCH_FAULTS=0.2: a fifth)
test-faults: .venv/ready
	.venv/bin/python -m pytest -m slow -n 2 --dist worksteal -rP tests/faults

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/mypy

# README and docs: what they say of results/
measured: .venv/ready
	.venv/bin/python docs/_measured.py
	.venv/bin/python docs/_questions.py > docs/questions.md

docs: .venv/ready
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	.venv/bin/mkdocs build --strict

clean:
	rm -rf .venv build site *.egg-info .pytest_cache .ruff_cache .mypy_cache
