"""Cut the sample collection under examples/data/ from MedQuAD (CC BY 4.0), and insulin.txt from the sample.

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
from recipes.beir_folder import write_corpus, write_judged_queries, write_lines

QUERIES, CANDIDATES, SEED = 40, 10, 13
SHOWN, PLACES = "q8448", 20
"""The question of insulin.txt, where BM25 is wrong, and how many passages the file has."""


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


def best_by_bm25(sample: Path) -> list[str]:
    """Texts of the passages that BM25 finds in the sample for the question of insulin.txt, best first."""
    collection, corpus = read_collection(sample), read_corpus(sample / "corpus.jsonl")
    run = bm25_run({SHOWN: collection.queries[SHOWN]}, corpus, PLACES)
    return [document_text(corpus[document], 0) for document in run[SHOWN]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    make_sample(arguments.source, arguments.output)
    write_lines(arguments.output.parent / "insulin.txt", best_by_bm25(arguments.output))
