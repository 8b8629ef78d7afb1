"""Measure what a first look at probabilities shows: clear answers, unrelated texts, answers inside other text.

    python benchmarks/probability.py FOLDER [FOLDER ...] [--split test] [--queries 100] [--words 50] [--model default]

For a sample of each BEIR folder's queries: the share of best answers (highest grade) above 0.5, each alone in its list;
the share of random documents below 0.1; and, of the answers at 0.6 or more, the share that keeps half of its log odds
with so many words of a random document around it. Where the folder has spans.jsonl, an answer is its span alone.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine
from blockrank_rerank.formats import read_collection, read_corpus
from blockrank_rerank.text.document import document_text

Case = tuple[str, str, str, str]
"""A query, its answer, an unrelated text, and the answer with words of the unrelated text around it."""


def cases(folder: Path, split: str, count: int, words: int) -> list[Case]:
    """Texts of a sample of queries."""
    collection, corpus = read_collection(folder, split), read_corpus(folder / "corpus.jsonl")
    texts, spans, found = {name: document_text(one, 0) for name, one in corpus.items()}, _spans(folder), []
    for query, text in collection.sample(count, seed=0).queries.items():
        rng, judged = random.Random(text), collection.qrels[query]
        best = max((name for name in judged if name in texts), key=judged.__getitem__, default=None)
        if best is None or judged[best] < 1:
            continue
        other = texts[rng.choice(sorted(texts.keys() - judged.keys()))]
        answer, around = spans.get(query, texts[best]), other.split()[:words]
        middle = len(around) // 2
        found.append((text, answer, other, " ".join([*around[:middle], answer, *around[middle:]])))
    return found


def _spans(folder: Path) -> dict[str, str]:
    """The first span of each query, where the collection has spans."""
    if not (path := folder / "spans.jsonl").exists():
        return {}
    spans: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        spans.setdefault(record["query-id"], record["text"])
    return spans


def log_odds(probability: float) -> float:
    """Natural logarithm of the odds; finite."""
    bounded = min(max(probability, 1e-9), 1 - 1e-9)
    return math.log(bounded / (1 - bounded))


def shares(ranker: BlockRankReranker, found: list[Case]) -> str:
    """The four columns of one model."""
    queries, *columns = zip(*found, strict=True)
    answers, others, surrounded = (_probabilities(ranker, queries, texts) for texts in columns)
    sure = [(log_odds(one), log_odds(two)) for one, two in zip(answers, surrounded, strict=True) if one >= 0.6]
    kept = sum(two >= one / 2 for one, two in sure) / len(sure) if sure else math.nan
    above, below = sum(p > 0.5 for p in answers) / len(answers), sum(p < 0.1 for p in others) / len(others)
    return f"{above:10.0%} {below:16.0%} {len(sure):14} {kept:10.0%}"


def _probabilities(ranker: BlockRankReranker, queries: Sequence[str], texts: Sequence[str]) -> list[float]:
    rankings = ranker.rank_batch((query, [text]) for query, text in zip(queries, texts, strict=True))
    return [ranking[0].probability or 0.0 for ranking in rankings]


def main(folders: list[Path], split: str, queries: int, words: int, model: list[str]) -> None:
    print(machine())
    names = f"{'above 0.5':>10} {'unrelated < 0.1':>16} {'of 0.6 or more':>14} {'keep half':>10}"
    print(f"{'collection':20} {'model':16} queries {names}")
    for folder in folders:
        found = cases(folder, split, queries, words)
        for name in model:
            ranker = BlockRankReranker.from_pretrained(name)
            print(f"{folder.name:20} {name[-16:]:16} {len(found):7} {shares(ranker, found)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--split", default="test")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--words", type=int, default=50)
    parser.add_argument("--model", action="append", default=None)
    asked = parser.parse_args()
    main(asked.folders, asked.split, asked.queries, asked.words, asked.model or ["default"])
