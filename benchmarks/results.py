"""Build the report of every collection of a folder: pages for this machine, and their numbers for the repository.

    python benchmarks/results.py FOLDER [--queries 5] [--only NAME] [--numbers docs/results] [--pages build/report]

FOLDER holds BEIR folders. Pages hold texts and stay out of the repository, as some collections are for evaluation
only. SciFact is measured over BM25's top 30 too, as others publish it. Times stay on the pages: they are of this
machine and of what else it does; other benchmarks measure them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from evaluation_sets import collections, source

from blockrank_rerank.cli.app import main as blockrank

ROOT = Path(__file__).parent.parent
DEPTH = 100
ALSO = {"scifact": [30]}
"""Further depths of a collection."""


def words(folder: Path, depth: int, page: Path, queries: int | None) -> list[str]:
    """What is typed for one report."""
    asked = source(folder, queries, depth)
    typed = ["report", str(folder), "--depth", str(depth), "--output", str(page)]
    typed += ["--split", asked.split, "--min-relevance", str(asked.min_relevance)]
    typed += [] if asked.run is None else ["--run", str(asked.run)]
    return typed if queries is None else [*typed, "--queries", str(queries)]


def keep(measured: Path, kept: Path, collection: str) -> None:
    """Copy a report's numbers without its times, and with the command that anyone can type."""
    numbers = json.loads(measured.read_text(encoding="utf-8"))
    del numbers["latencies"]
    numbers["command"] = f"python benchmarks/results.py FOLDER --only {collection}"
    kept.write_text(json.dumps(numbers, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main(folder: Path, queries: int | None, only: list[str], numbers: Path, pages: Path) -> None:
    for path in (numbers, pages):
        path.mkdir(parents=True, exist_ok=True)
    for collection in collections(folder, only):
        for depth in (DEPTH, *ALSO.get(collection.name, [])):
            name = collection.name if depth == DEPTH else f"{collection.name}-{depth}"
            page = pages / f"{name}.html"
            if blockrank(words(collection, depth, page, queries)):
                sys.exit(f"{name}: no report")
            keep(page.with_suffix(".json"), numbers / f"{name}.json", collection.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of BEIR folders")
    parser.add_argument("--queries", type=int)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a collection; all, if not given")
    parser.add_argument("--numbers", type=Path, default=ROOT / "docs/results")
    parser.add_argument("--pages", type=Path, default=ROOT / "build/report")
    main(**vars(parser.parse_args()))
