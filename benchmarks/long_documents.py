"""Measure what splitting long documents is worth: nDCG@10 and time with splitting and with truncation.

    python benchmarks/long_documents.py FOLDER [FOLDER …] [--queries 50] [--depth 50] [--max-tokens N] [--join N]

BM25's candidates. --max-tokens makes more documents long; --join puts every N neighbours of the corpus together, which
gives back the running text where a collection was cut into passages (covid-qa, openstax, medquad).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine
from blockrank_rerank.evaluation.measures import bm25_run, evaluate_ranker
from blockrank_rerank.formats import Collection, Corpus, read_collection, read_corpus
from blockrank_rerank.text.document import document_text


def joined(collection: Collection, corpus: Corpus, count: int) -> tuple[Collection, Corpus]:
    """Every ``count`` neighbouring documents as one, and the judgements that follow."""
    owner = {identifier: str(place // count) for place, identifier in enumerate(corpus)}
    texts: dict[str, str] = {}
    for place, (identifier, document) in enumerate(corpus.items()):
        text = document_text(document, place)
        texts[owner[identifier]] = f"{texts[owner[identifier]]}\n{text}" if owner[identifier] in texts else text
    qrels: dict[str, dict[str, int]] = {}
    for query, judged in collection.qrels.items():
        for identifier, grade in judged.items():
            best = qrels.setdefault(query, {})
            best[owner[identifier]] = max(grade, best.get(owner[identifier], 0))
    return replace(collection, qrels=qrels), dict(texts)


def main(folders: list[Path], queries: int, depth: int, max_tokens: int | None, join: int) -> None:
    ranker = BlockRankReranker.from_pretrained(max_document_tokens=max_tokens)
    modes = {mode: ranker.with_config(long_documents=mode) for mode in ("truncate", "split")}
    print(machine())
    for folder in folders:
        collection = read_collection(folder, "test").sample(queries, seed=0)
        collection, corpus = joined(collection, read_corpus(folder / "corpus.jsonl"), join)
        words = sum(len(document_text(document, 0).split()) for document in corpus.values()) / len(corpus)
        run = bm25_run(collection.queries, corpus, depth)
        for mode, one in modes.items():
            start = time.perf_counter()
            after = evaluate_ranker(one, collection, corpus, run, depth=depth).after
            seconds = time.perf_counter() - start
            print(
                f"{folder.name:16} {words:6.0f} words {mode:9} nDCG@10 {after['nDCG@10']:.4f}  {seconds:6.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--max-tokens", type=int, default=None)
    parser.add_argument("--join", type=int, default=1)
    main(**vars(parser.parse_args()))
