"""BEIR folders, as the other recipes write them; there is no command here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from blockrank_rerank.formats import Corpus, Qrels, Queries


def write_judged_queries(folder: Path, split: str, queries: Queries, qrels: Qrels) -> None:
    """Write ``queries.jsonl`` and ``qrels/<split>.tsv``."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    write_lines(folder / "queries.jsonl", (_json({"_id": query, "text": text}) for query, text in queries.items()))
    rows = (f"{query}\t{document}\t{grade}" for query in queries for document, grade in qrels[query].items())
    write_lines(folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *rows])


def write_corpus(folder: Path, corpus: Corpus) -> None:
    """Write ``corpus.jsonl``."""
    records = (
        {"_id": name, "title": "", "text": document} if isinstance(document, str) else {"_id": name, **document}
        for name, document in corpus.items()
    )
    write_lines(folder / "corpus.jsonl", map(_json, records))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def _json(record: dict[str, str]) -> str:
    return json.dumps(record, ensure_ascii=False)
