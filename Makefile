.PHONY: help test lowest lint format type check docs bench report

FAST = tests/formats tests/text tests/test_config.py
LOWEST = tests/cli tests/states tests/formats tests/system tests/finetune/test_paths.py tests/integrations

DATA = ../shared/data/dev

help:    ## show these lines
	@grep -E '^[a-z]+: +##' Makefile

test:    ## run every test
	python -m pytest

lowest:  ## install the lowest versions that pyproject.toml allows, here, and run the tests of what depends on them
	mkdir -p build && python .ci/lowest.py > build/lowest.txt
	python -m pip install --constraint build/lowest.txt '.[all]' 'pytest>=8' 'hypothesis>=6.100'
	python -m pytest -q $(LOWEST)

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

report:  ## build the reports of a folder of collections, DATA=FOLDER, into build/report and docs/results (extra: report)
	python benchmarks/results.py $(DATA) $(ARGUMENTS)

bench:   ## print timings; never part of the tests
	python benchmarks/packing.py && python benchmarks/scaling.py
