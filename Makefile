.PHONY: help test lint format type check docs bench

FAST = tests/formats tests/text tests/test_config.py

help:    ## show these lines
	@grep -E '^[a-z]+: +##' Makefile

test:    ## run every test
	python -m pytest

lint:    ## check style and spelling
	ruff check . && ruff format --check . && codespell

format:  ## format, and mend what ruff can mend
	ruff check --fix . && ruff format .

type:    ## check types
	mypy

check:   ## lint, types, and the tests that need no model: before every commit
	$(MAKE) lint type && python -m pytest -n 0 -q $(FAST)

docs:    ## build the documentation site into build/site, refusing broken links (extra: docs)
	mkdocs build --strict

bench:   ## print timings; never part of the tests
	python benchmarks/packing.py && python benchmarks/scaling.py
