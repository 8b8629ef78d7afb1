"""Mine the default model's training lists from DATA, a folder of BEIR folders.

    python -m recipes.default_model.mine_default_data DATA build/mined
    python -m recipes.default_model.mine_default_data DATA build/mined-further --further build/mined
    python -m recipes.default_model.mine_default_data DATA build/mined-last --further build/mined --part last
    python -m recipes.default_model.mine_default_data DATA build/mined-more --further build/mined --part more
    python -m recipes.default_model.mine_default_data DATA build/mined-passages --passages build/passages

BM25's best 30 documents that are not judged. No teacher filters them: one that is the starting model itself
refuses exactly the negatives that it gets wrong (dev/LOG.md). Queries of the shipped sample and the
development queries are left out. --further mines lists of queries that the folder after it lacks, in three parts;
--passages those of collections that cut_passages.py beside it has cut, and of some whose documents are as short.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from blockrank_rerank.finetune.data import write_examples
from blockrank_rerank.finetune.mining import Mining, mine_negatives
from blockrank_rerank.formats import read_queries

ROOT = Path(__file__).parents[2]
QUERIES = {"selqa": 900, "squad-dev-noxquad": 900, "stackexchange": 900, "covid-qa": 900}
QUERIES |= {"medquad": 700, "openstax": 700, "pubmedqa": 400, "scitldr": 400}
QUERIES |= {"react-interview-faq": 350, "recipes": 250}
OTHER_QUERIES = 350

Bounds = tuple[tuple[int, int | None], ...]
WHOLE: Bounds = ((0, None),)

FURTHER = {"selqa": 1400, "stackexchange": 1150, "squad-dev-noxquad": 2500, "covid-qa": 700, "medquad": 2000}
FURTHER |= {"openstax": 2000, "wiki-entities": 800, "scitldr": 800, "wordset": 400}
FIRST: dict[str, Bounds] = dict.fromkeys(FURTHER, ((0, 250),))
FURTHER |= {"code-docstring": 900, "factbook": 200, "docs-peps": 100, "dc-law": 100}
FURTHER |= dict.fromkeys(["docs-react", "docs-d2l", "tldr-pages"], 80)
LAST: dict[str, Bounds] = dict.fromkeys(["selqa", "squad-dev-noxquad", "medquad"], ((250, 750), (1000, 1250)))
LAST |= {"stackexchange": ((250, 750), (1000, 1150)), "covid-qa": ((250, 700),)}
LAST |= {"openstax": ((250, 750),), "scitldr": ((250, 500),)}
MORE: dict[str, Bounds] = {"selqa": ((750, 1000), (1250, 1400)), "stackexchange": ((750, 1000),)}
MORE |= {"squad-dev-noxquad": ((750, 1000), (1250, 2000)), "wiki-entities": ((250, 700),)}
MORE |= {"scitldr": ((500, 700),), "wordset": ((250, 400),)}
MORE |= {name: WHOLE for name in FURTHER if name not in FIRST}
PARTS = {"first": FIRST, "last": LAST, "more": MORE}
"""Which of the further lists are kept: what the teachers had time for, in three sessions."""

PASSAGES = {"squad-dev-noxquad": 3000, "selqa": 2300, "covid-qa": 1600, "stackexchange": 1300, "wiki-entities": 600}
PASSAGES |= {"medquad": 400, "openstax": 400, "code-docstring": 2900, "wordset": 400, "factbook": 200}


def mine_passages(source: Path, output: Path, cut: Path) -> None:
    """Write the lists of passages, whether their queries had lists before or not."""
    held_out = _held_out()
    for collection, limit in PASSAGES.items():
        folder = cut / collection if (cut / collection).is_dir() else source / collection
        mined = _mine(folder, limit, held_out.get(collection, set()))
        write_examples(output / f"{collection}.jsonl", mined.examples)
        print(collection, mined.report, flush=True)


def mine_documents(source: Path, output: Path, further: Path | None, part: str) -> None:
    """Write the lists of whole documents."""
    held_out = _held_out()
    everything = sorted(path.name for path in source.iterdir() if path.is_dir())
    bounds_of = PARTS[part] if further else dict.fromkeys(everything, WHOLE)
    for collection, bounds in bounds_of.items():
        name = f"{collection}.jsonl"
        limit = FURTHER[collection] if further else QUERIES.get(collection, OTHER_QUERIES)
        excluded = held_out.get(collection, set()) | (_queries(further / name) if further else set())
        mined = _mine(source / collection, limit, excluded)
        write_examples(output / name, [example for start, end in bounds for example in mined.examples[start:end]])
        print(collection, mined.report, flush=True)


def _mine(folder: Path, limit: int, excluded: set[str]) -> Mining:
    return mine_negatives(folder, method="bm25", depth=60, per_query=30, queries_limit=limit, exclude_queries=excluded)


def _queries(path: Path) -> set[str]:
    """Ids of the queries of mined lists."""
    return {json.loads(line)["query_id"] for line in path.read_text(encoding="utf-8").splitlines()}


def _held_out() -> dict[str, set[str]]:
    """Ids of queries to leave out, by collection."""
    development = json.loads((ROOT / "recipes/default_model/development_queries.json").read_text(encoding="utf-8"))
    held_out = {collection: set(ids) for collection, ids in development.items()}
    held_out["medquad"] |= read_queries(ROOT / "examples/data/medquad-sample/queries.jsonl").keys()
    return held_out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--further", type=Path)
    parser.add_argument("--part", choices=PARTS, default="first")
    parser.add_argument("--passages", type=Path)
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    if asked.passages:
        mine_passages(asked.source, asked.output, asked.passages)
    else:
        mine_documents(asked.source, asked.output, asked.further, asked.part)
