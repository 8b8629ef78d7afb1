"""Measure nDCG@10 of two models on one collection, and how sure the difference is.

    python benchmarks/before_after.py build/domain-test default build/domain-model [--depth 50]

BM25's candidates. The interval is the middle 95 % of the mean difference over 10,000 samples of the queries, drawn
with replacement (paired bootstrap).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import machine

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.measures import bm25_run, evaluate_ranker, evaluate_run
from blockrank_rerank.formats import Qrels, Run, read_collection, read_corpus

SAMPLES = 10_000


def by_query(qrels: Qrels, run: Run) -> np.ndarray:
    """nDCG@10 of each query, ``[Q]``."""
    return np.array([evaluate_run({query: judged}, run)["nDCG@10"] for query, judged in qrels.items()])


def main(folder: Path, models: list[str], split: str, depth: int, cache: str) -> None:
    collection = read_collection(folder, split)
    corpus = read_corpus(folder / "corpus.jsonl")
    run = bm25_run(collection.queries, corpus, depth)
    print(machine())
    print(f"{len(collection.queries)} queries; first stage {by_query(collection.qrels, run).mean():.4f}")
    values = []
    for model in models:
        ranker = BlockRankReranker.from_pretrained(model, cache=cache)
        reranked = evaluate_ranker(ranker, collection, corpus, run, depth=depth).reranked.run
        values.append(by_query(collection.qrels, reranked))
        print(f"{model:40} {values[-1].mean():.4f}", flush=True)
    difference = values[1] - values[0]
    draws = np.random.default_rng(0).integers(len(difference), size=(SAMPLES, len(difference)))
    low, high = np.percentile(difference[draws].mean(1), (2.5, 97.5))
    print(
        f"difference {difference.mean():+.4f}, 95 % interval {low:+.4f} to {high:+.4f}; "
        f"{(difference > 0).sum()} queries better, {(difference < 0).sum()} worse"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs=2)
    parser.add_argument("--split", default="test")
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--cache", default="3GB")
    main(**vars(parser.parse_args()))
