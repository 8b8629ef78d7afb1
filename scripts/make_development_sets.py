"""BEIR folders of the development queries, which are cut from the training collections and never trained on.

    python scripts/make_development_sets.py SHARED/data/train build/development
    python benchmarks/quality.py build/development --cosine --model default --depth 50

configs/development_queries.json names the queries: 50 from each of 13 collections, drawn at random once.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main(source: Path, output: Path) -> None:
    chosen = json.loads((ROOT / "configs/development_queries.json").read_text(encoding="utf-8"))
    for collection, ids in chosen.items():
        wanted, folder = set(ids), output / collection
        (folder / "qrels").mkdir(parents=True)
        (folder / "corpus.jsonl").symlink_to((source / collection / "corpus.jsonl").resolve())
        queries = (source / collection / "queries.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in queries if json.loads(line)["_id"] in wanted]
        (folder / "queries.jsonl").write_text("".join(kept), encoding="utf-8")
        header, *rows = (source / collection / "qrels/train.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
        judged = [row for row in rows if row.split("\t")[0] in wanted]
        (folder / "qrels/test.tsv").write_text("".join([header, *judged]), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    main(**vars(parser.parse_args()))
