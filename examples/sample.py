"""What the examples share: 40 questions on health, 430 passages, one first stage, and the report that they print.

The data are described in examples/data/README.md.
"""

from __future__ import annotations

from pathlib import Path

from blockrank_rerank.evaluation.measures import bm25_run, evaluate_run
from blockrank_rerank.formats import read_collection, read_corpus
from blockrank_rerank.text.document import document_text

FOLDER = Path(__file__).parent / "data" / "medquad-sample"
COLLECTION = read_collection(FOLDER)
QUERIES = COLLECTION.queries
TEXTS = {name: document_text(document, 0) for name, document in read_corpus(FOLDER / "corpus.jsonl").items()}
CANDIDATES = {QUERIES[query]: [*found] for query, found in bm25_run(QUERIES, TEXTS, depth=20).items()}
"""Question → ids of BM25's 20 best passages, best first: the first stage of every example."""

SHOWN = 3
WIDTH = 46


def report(rankings: dict[str, list[str]]) -> None:
    """Print the largest gain, the largest loss, and what all questions say.

    Parameters
    ----------
    rankings : dict
        Question → ids of its reranked passages, best first.
    """
    gains = {}
    for query, question in QUERIES.items():
        before, after = ndcg(query, CANDIDATES[question]), ndcg(query, rankings[question])
        gains[query] = after - before, before, after
    for what, of_all, sign in (("largest gain", max, 1), ("largest loss", min, -1)):
        query = of_all(gains, key=lambda query: gains[query][0])
        difference, before, after = gains[query]
        if difference * sign > 0:
            print(f"{QUERIES[query]}\n{what}: nDCG@10 {before:.3f} -> {after:.3f}; * is an answer, by the judgements")
            show(query, rankings[QUERIES[query]])
    _, before, after = (sum(values) / len(gains) for values in zip(*gains.values(), strict=True))
    differences = [difference for difference, _, _ in gains.values()]
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    print(f"{len(gains)} questions, nDCG@10: BM25 {before:.3f}, reranked {after:.3f}")
    print(f"{better} better, {worse} worse, {len(gains) - better - worse} equal")


def show(query: str, reranked: list[str]) -> None:
    """Print the first passages of BM25 and of a reranking side by side, answers marked."""
    print(f"   {'BM25':{WIDTH}}  reranked")
    for place, pair in enumerate(zip(CANDIDATES[QUERIES[query]][:SHOWN], reranked, strict=False), start=1):
        cells = [f"{'*' if COLLECTION.qrels[query].get(name) else ' '} {TEXTS[name]}"[:WIDTH] for name in pair]
        print(f"{place}  {cells[0]:{WIDTH}}  {cells[1]}")
    print()


def ndcg(query: str, ranking: list[str]) -> float:
    """nDCG@10 of one question; the ranking is ids of passages, best first."""
    run = {query: {name: -float(place) for place, name in enumerate(ranking)}}
    return evaluate_run({query: COLLECTION.qrels[query]}, run)["nDCG@10"]
