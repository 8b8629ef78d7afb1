.PHONY: test lint type bench

test:
	python -m pytest

lint:
	ruff check . && ruff format --check .

type:
	mypy

bench:
	python benchmarks/packing.py && python benchmarks/scaling.py
