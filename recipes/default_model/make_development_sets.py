"""Write BEIR folders of the development queries, cut from the training collections and never trained on.

    python -m recipes.default_model.make_development_sets DATA build/development
    python benchmarks/quality.py build/development --cosine --model default --depth 50

DATA is a folder of BEIR folders. development_queries.json beside this file names the queries: 50 from each of 13
collections, drawn at random once.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from blockrank_rerank.formats import read_collection
from recipes.beir_folder import write_judged_queries

CHOSEN = Path(__file__).with_name("development_queries.json")


def main(source: Path, output: Path) -> None:
    """Write the development queries of every collection, over its whole corpus."""
    chosen = json.loads(CHOSEN.read_text(encoding="utf-8"))
    for collection, ids in chosen.items():
        judged, folder = read_collection(source / collection, "train"), output / collection
        queries = {query: text for query, text in judged.queries.items() if query in ids}
        write_judged_queries(folder, "test", queries, judged.qrels)
        (folder / "corpus.jsonl").symlink_to((source / collection / "corpus.jsonl").resolve())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    main(**vars(parser.parse_args()))
