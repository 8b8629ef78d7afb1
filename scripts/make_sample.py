"""Cut the sample collection under examples/data/ from MedQuAD (CC BY 4.0).

    python scripts/make_sample.py SHARED/data/train/medquad examples/data/medquad-sample

Queries are drawn at random; documents are their answers and BM25's best candidates. The queries are held out of the
default model's training (scripts/mine_default_data.py); their answers may be candidates for other queries there.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from blockrank_rerank.evaluation import bm25_run
from blockrank_rerank.formats import read_collection, read_corpus
from blockrank_rerank.prompt import document_text

QUERIES, CANDIDATES, SEED = 40, 10, 13


def make_sample(source: Path, output: Path) -> None:
    collection, corpus = read_collection(source, "train"), read_corpus(source / "corpus.jsonl")
    chosen = sorted(random.Random(SEED).sample(sorted(collection.queries), QUERIES))
    queries = {query: collection.queries[query] for query in chosen}
    qrels = {query: collection.qrels[query] for query in chosen}
    run = bm25_run(queries, corpus, CANDIDATES)
    documents = sorted({d for ids in [*run.values(), *qrels.values()] for d in ids})
    (output / "qrels").mkdir(parents=True, exist_ok=True)
    _write(output / "queries.jsonl", [{"_id": q, "text": text} for q, text in queries.items()])
    _write(output / "corpus.jsonl", [{"_id": d, "title": "", "text": document_text(corpus[d], 0)} for d in documents])
    rows = [f"{q}\t{d}\t{grade}\n" for q in chosen for d, grade in sorted(qrels[q].items())]
    (output / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows), encoding="utf-8")


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    make_sample(arguments.source, arguments.output)
