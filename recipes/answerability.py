"""Learn the four numbers by which a ranking says whether its list holds an answer at all.

    python -m recipes.answerability MODEL DATA [--only NAME ...] [--queries 300] [--write]

DATA holds BEIR folders to train on (extra `calibrate`, and `eval` for BM25). Of each query with a relevant document
among BM25's first there are two lists: as BM25 gives it, and without its relevant documents, filled up from further
down. So both kinds are of the same passages and the same queries, and neither tells the other's answer. Questions
without any answer, `unanswerable.jsonl` beside another collection, are asked of `--passages`. Prints how well each
collection is told by what was learnt on the others, beside the best document's score alone; --write puts the numbers
into MODEL's blockrank_config.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from blockrank_rerank import BlockRankConfig, BlockRankReranker
from blockrank_rerank.evaluation.measures import bm25_run
from blockrank_rerank.formats import Corpus, Queries, read_collection, read_corpus
from blockrank_rerank.model.scores import OTHERS, answerable

DEPTH, SEED = 30, 1
COLLECTIONS = (
    "nq-qed-train",
    "squad-dev-noxquad",
    "stackexchange",
    "covid-qa",
    "conditionalqa",
    "selqa",
    "medquad",
    "openstax",
    "docs-react",
)
JudgedList = tuple[list[float], bool]
"""Raw scores of a list, and whether it holds an answer."""


def judged_lists(ranker: BlockRankReranker, folder: Path, queries: int) -> list[JudgedList]:
    """Lists with and without the relevant documents of a collection's queries."""
    collection = read_collection(folder, "train", 1).sample(queries, SEED)
    corpus, requests, labels = read_corpus(folder / "corpus.jsonl"), [], []
    most = max(len(judged) for judged in collection.qrels.values())
    for query, found in bm25_run(collection.queries, corpus, DEPTH + most).items():
        relevant = {name for name, grade in collection.qrels[query].items() if grade > 0}
        without = [name for name in found if name not in relevant][:DEPTH]
        for names in ([*found][:DEPTH], without):
            if len(names) > 1:
                requests.append((collection.queries[query], [corpus[name] for name in names]))
                labels.append(not relevant.isdisjoint(names))
    return [*zip(_raw_scores(ranker, requests), labels, strict=True)]


def unanswerable_lists(ranker: BlockRankReranker, questions: Queries, corpus: Corpus) -> list[JudgedList]:
    """Lists of a corpus that answers none of these questions."""
    found = bm25_run(questions, corpus, DEPTH)
    requests = [(questions[query], [corpus[name] for name in names]) for query, names in found.items() if names]
    return [(raw, False) for raw in _raw_scores(ranker, requests)]


def _raw_scores(ranker: BlockRankReranker, requests: Sequence[tuple[str, list[object]]]) -> list[list[float]]:
    return [[document.raw_score for document in ranking] for ranking in ranker.rank_batch(requests)]


def fitted(lists: Sequence[JudgedList]) -> tuple[float, ...]:
    """Intercept, two slopes, and the mean score of the documents after the best one, of lists that have enough."""
    usual = float(np.mean([np.mean(sorted(raw)[-1 - OTHERS : -1]) for raw, _ in lists if len(raw) > OTHERS]))
    best = np.array([max(raw) for raw, _ in lists])
    others = [(sorted(raw, reverse=True)[1 : 1 + OTHERS] + [usual] * OTHERS)[:OTHERS] for raw, _ in lists]
    features = np.stack([best, best - np.mean(others, 1)], 1)
    fit = LogisticRegression(C=1e6, max_iter=1000).fit(features, [label for _, label in lists])
    return (float(fit.intercept_[0]), *map(float, fit.coef_[0]), usual)


def told(lists: Sequence[JudgedList], numbers: Sequence[float]) -> str:
    """Area under the curve of what was learnt, and of the best score alone; and mean probabilities of both kinds."""
    labels = [label for _, label in lists]
    found = [answerable(raw, numbers) for raw, _ in lists]
    means = [np.mean([p for p, label in zip(found, labels, strict=True) if label is kind]) for kind in (True, False)]
    alone = roc_auc_score(labels, [max(raw) for raw, _ in lists])
    return f"{roc_auc_score(labels, found):.3f} (best score {alone:.3f}); means {means[0]:.2f} and {means[1]:.2f}"


def main(model: Path, data: Path, only: list[str], queries: int, questions: Path, passages: str, write: bool) -> None:
    """Print tables, and write the numbers."""
    ranker = BlockRankReranker.from_pretrained(model, cache="2GB")
    lists = {name: judged_lists(ranker, data / name, queries) for name in only or COLLECTIONS}
    if questions.exists():
        rows = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()][:queries]
        asked = {row["_id"]: row["text"] for row in rows}
        lists["unanswerable"] = unanswerable_lists(ranker, asked, read_corpus(data / passages / "corpus.jsonl"))
    for name, own in lists.items():
        if len({label for _, label in own}) > 1:
            others = [one for other, of_other in lists.items() if other != name for one in of_other]
            print(f"{name:20} {len(own):5} lists  {told(own, fitted(others))}")
    numbers = tuple(round(number, 4) for number in fitted([one for of_one in lists.values() for one in of_one]))
    print(f"answerability: {numbers}")
    if write:
        replace(BlockRankConfig.load(model), answerability=numbers).save(model)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--queries", type=int, default=300, help="of each collection")
    parser.add_argument("--questions", type=Path, help="unanswerable.jsonl; that of DATA/clapnq-train if not given")
    parser.add_argument("--passages", default="nq-qed-train", help="collection of which --questions are asked")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    options.questions = options.questions or options.data / "clapnq-train" / "unanswerable.jsonl"
    main(**vars(options))
