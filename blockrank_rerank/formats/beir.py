"""Queries and documents of BEIR folders."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from blockrank_rerank.errors import DataError
from blockrank_rerank.formats.jsonl import (
    identifier_field,
    json_type,
    optional_string_field,
    parse_jsonl,
    string_field,
)
from blockrank_rerank.formats.lines import read_lines
from blockrank_rerank.system.files import UserPath, expanded

Queries = dict[str, str]
"""Query id → text."""

Corpus = dict[str, str | dict[str, str]]
"""Document id → text, or ``{"title", "text"}`` where there is a title."""


def read_queries(path: UserPath) -> Queries:
    """Read the queries of a BEIR folder.

    Parameters
    ----------
    path : str or path-like
        JSONL of ``{"_id", "text"}``.

    Raises
    ------
    DataError
        If a line is malformed, an id appears twice, or there is no query.
    """
    queries: Queries = {}
    path = expanded(path, "path")
    for line, key, record in _records(path):
        _refuse_duplicate(key, queries, path, line)
        queries[key] = string_field(record, "text", str(path), line)
        if not queries[key].strip():
            raise DataError(f'expected "text" of query {key!r} to hold text, got an empty one', str(path), line)
    if not queries:
        raise _empty_file("query", path)
    return queries


def read_corpus(path: UserPath, keep: Collection[str] | None = None) -> Corpus:
    """Read the documents of a BEIR folder, or some of them.

    Parameters
    ----------
    path : str or path-like
        JSONL of ``{"_id", "title", "text"}``; the title may be missing or empty.
    keep : collection of str, optional
        Ids to keep in memory; everything by default.

    Raises
    ------
    DataError
        If a line is malformed, an id appears twice, or the file holds no document.
    """
    corpus: Corpus = {}
    path = expanded(path, "path")
    empty = True
    for line, key, record in _records(path):
        empty = False
        text = string_field(record, "text", str(path), line)
        title = optional_string_field(record, "title", str(path), line)
        if keep is None or key in keep:
            _refuse_duplicate(key, corpus, path, line)
            corpus[key] = {"title": title, "text": text} if title else text
    if empty:
        raise _empty_file("document", path)
    return corpus


def _records(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for line, value in parse_jsonl(read_lines(path), str(path)):
        if not isinstance(value, dict) or "_id" not in value or "text" not in value:
            found = f"keys {sorted(value)}" if isinstance(value, dict) else json_type(value)
            raise DataError(f'expected a JSON object with "_id" and "text", got {found}', str(path), line)
        yield line, identifier_field(value, "_id", str(path), line), value


def _refuse_duplicate(key: str, known: Collection[str], path: Path, line: int) -> None:
    if key in known:
        raise DataError(f'expected every "_id" once, got {key!r} again', str(path), line)


def _empty_file(noun: str, path: Path) -> DataError:
    return DataError(f"the file is empty: expected one {noun} per line", str(path))
