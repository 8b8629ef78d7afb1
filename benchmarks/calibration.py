"""Measure how far probabilities can be believed, with lists of which half hold no relevant document.

    python benchmarks/calibration.py FOLDER [--split test] [--model default] [--queries 200] [--depth 20]

Every query is ranked twice: with BM25's candidates and its relevant documents, and with the relevant ones
left out. Expected calibration error: ten equal bins of probability, mean distance between the probability
and the share of relevant documents, weighted by the bins' sizes (arXiv 1706.04599). Where few documents are relevant, a
constant has a small one too: what a threshold on a list's best probability is worth, the area under the curve says.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import machine

from blockrank_rerank import BlockRankReranker, RankedDocument
from blockrank_rerank.evaluation.measures import bm25_run, shuffled
from blockrank_rerank.formats import read_collection, read_corpus

BINS = 10


def expected_calibration_error(probability: np.ndarray, relevant: np.ndarray) -> float:
    """Over ``[N]`` probabilities and ``[N]`` truths."""
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    gaps = [abs(probability[bins == b].mean() - relevant[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    return float(sum(gaps))


def area_under_curve(with_answer: Sequence[float], without: Sequence[float]) -> float:
    """How often a list with a relevant document has the higher value; ties count half."""
    difference = np.subtract.outer(with_answer, without)
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def main(folder: Path, split: str, model: str, queries: int, depth: int) -> None:
    ranker = BlockRankReranker.from_pretrained(model)
    if not ranker.config.abstention:
        raise SystemExit(f"model {model} was not trained to abstain: it has no probabilities")
    collection = read_collection(folder, split).sample(queries, seed=0)
    corpus = read_corpus(folder / "corpus.jsonl")
    run = bm25_run(collection.queries, corpus, depth)
    relevant = {query: {d for d, grade in judged.items() if grade > 0} for query, judged in collection.qrels.items()}
    full = shuffled({query: run[query] | dict.fromkeys(relevant[query], 0.0) for query in run}, seed=0)
    empty = {query: [d for d in ids if d not in relevant[query]] for query, ids in full.items()}
    names = list(full)
    rankings = [
        ranker.rank_batch([(collection.queries[query], [corpus[d] for d in lists[query]]) for query in names])
        for lists in (full, empty)
    ]
    truths = [[d in relevant[query] for d in full[query]] for query in names]
    _report(rankings[0], rankings[1], truths)


def _report(full: list[list[RankedDocument]], empty: list[list[RankedDocument]], truths: list[list[bool]]) -> None:
    judged = [(d.probability, truth[d.index]) for ranking, truth in zip(full, truths, strict=True) for d in ranking]
    nothing = [(d.probability, False) for ranking in empty for d in ranking]
    print(machine())
    for name, pairs in (("all lists", judged + nothing), ("lists without a relevant document", nothing)):
        probability, relevant = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
        error = expected_calibration_error(probability, relevant)
        print(f"{name}: {len(pairs)} documents, {relevant.mean():.1%} relevant, expected calibration error {error:.4f}")
    best = [[max(d.probability or 0 for d in ranking) for ranking in lists if ranking] for lists in (full, empty)]
    print(f"{len(full)} queries, area under the curve of a list's best probability {area_under_curve(*best):.3f}")
    print("threshold   lists with a relevant document that pass   lists without one that pass")
    for threshold in (0.1, 0.2, 0.3, 0.5, 0.7):
        passed = [np.mean(np.array(values) >= threshold) for values in best]
        print(f"{threshold:9.1f} {passed[0]:41.1%} {passed[1]:29.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", default="default")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--depth", type=int, default=20)
    main(**vars(parser.parse_args()))
