"""Cut the sample collection under examples/data/ from MedQuAD (CC BY 4.0).

    python -m recipes.make_sample DATA/medquad examples/data/medquad-sample

DATA is a folder of BEIR folders. Queries are drawn at random; documents are their answers and BM25's best
candidates. The queries are held out of the default model's training (recipes/default_model/mine_default_data.py);
their answers may be candidates for other queries there.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from blockrank_rerank.evaluation.measures import bm25_run
from blockrank_rerank.formats import read_collection, read_corpus
from blockrank_rerank.text.document import document_text
from recipes.beir_folder import write_corpus, write_judged_queries

QUERIES, CANDIDATES, SEED = 40, 10, 13


def make_sample(source: Path, output: Path) -> None:
    """Write the drawn queries of a collection, their judgements and their candidates."""
    collection, corpus = read_collection(source, "train"), read_corpus(source / "corpus.jsonl")
    chosen = sorted(random.Random(SEED).sample(sorted(collection.queries), QUERIES))
    queries = {query: collection.queries[query] for query in chosen}
    qrels = {query: dict(sorted(collection.qrels[query].items())) for query in chosen}
    run = bm25_run(queries, corpus, CANDIDATES)
    documents = sorted({d for ids in [*run.values(), *qrels.values()] for d in ids})
    write_judged_queries(output, "test", queries, qrels)
    write_corpus(output, {document: document_text(corpus[document], 0) for document in documents})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    make_sample(arguments.source, arguments.output)
