"""The collection that the examples rank: 40 questions on health and 430 passages (examples/data/README.md)."""

from __future__ import annotations

from pathlib import Path

from blockrank_rerank.evaluation.measures import evaluate_run
from blockrank_rerank.formats import read_collection, read_corpus
from blockrank_rerank.text.document import document_text

FOLDER = Path(__file__).parent / "data" / "medquad-sample"
COLLECTION = read_collection(FOLDER)
QUERIES = COLLECTION.queries
TEXTS = {name: document_text(document, 0) for name, document in read_corpus(FOLDER / "corpus.jsonl").items()}


def show(question: str, before: list[str], after: list[str]) -> None:
    """Print the first documents of two rankings of document ids."""
    print(f"\n{question}")
    for title, ranking in (("before", before), ("after", after)):
        print(f"  {title}")
        for name in ranking[:3]:
            print(f"    {name}  {TEXTS[name][:90]}…")


def ndcg(rankings: dict[str, list[str]]) -> float:
    """nDCG@10 over all questions; a ranking is document ids, best first."""
    run = {query: {name: -float(place) for place, name in enumerate(names)} for query, names in rankings.items()}
    return evaluate_run(COLLECTION.qrels, run)["nDCG@10"]
