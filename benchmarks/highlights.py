"""Measure how often the sentence that a query looked at most is one that answers it.

    python benchmarks/highlights.py FOLDER/trecqa [--model default] [--sentences 12]

FOLDER/trecqa is a BEIR folder whose documents are judged sentences. For every question, sentences of its candidate
list, one or more of them relevant, are put together in random order as the paragraph of one document, and the ranker's
best sentence is compared with a random one and with BM25's best among the same. Questions whose candidates are all
relevant or all not are left out.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine
from blockrank_rerank.evaluation.measures import bm25_run
from blockrank_rerank.formats import read_collection, read_corpus, read_run
from blockrank_rerank.text.document import document_text


def main(folder: Path, model: str, sentences: int) -> None:
    ranker = BlockRankReranker.from_pretrained(model)
    collection = read_collection(folder)
    run = read_run(folder / "candidates_test.trec")
    texts = {name: document_text(document, 0) for name, document in read_corpus(folder / "corpus.jsonl").items()}
    hits = {"random sentence": 0.0, "BM25's best sentence": 0.0, "blockrank's best sentence": 0.0}
    questions = 0
    for query, question in collection.queries.items():
        names = list(run.get(query, {}))
        random.Random(f"0:{query}").shuffle(names)
        names = names[:sentences]
        relevant = {name for name in names if collection.qrels[query].get(name, 0) > 0}
        if not 0 < len(relevant) < len(names):
            continue
        questions += 1
        hits["random sentence"] += len(relevant) / len(names)
        found = bm25_run({query: question}, {name: texts[name] for name in names}, 1)[query]
        hits["BM25's best sentence"] += bool(relevant & set(found)) if found else len(relevant) / len(names)
        hits["blockrank's best sentence"] += _best(ranker, question, [texts[name] for name in names]) in {
            names.index(name) for name in relevant
        }
    print(machine())
    print(f"{questions} questions, at most {sentences} sentences each")
    for name, count in hits.items():
        print(f"{name:28} {count / questions:6.1%} relevant")


def _best(ranker: BlockRankReranker, question: str, sentences: list[str]) -> int:
    """Which of the sentences holds the middle of the best one that the ranker names."""
    best = ranker.explain(question, [" ".join(sentences)]).documents[0].best_sentence
    assert best is not None
    middle, end = (best.start + best.end) // 2, 0
    for number, sentence in enumerate(sentences):
        end += len(sentence) + 1
        if middle < end:
            return number
    return len(sentences) - 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--sentences", type=int, default=12)
    main(**vars(parser.parse_args()))
