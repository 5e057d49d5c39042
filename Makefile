.PHONY: install test lint types check

install:
	pip install -e ".[dev]"

test:
	pytest -n auto

lint:
	ruff check .
	ruff format --check .

types:
	mypy

check: lint types test
