"""Columns of judgements and runs: split off a line, and named by a first line."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from blockrank_rerank.errors import DataError

ITERATIONS = {"0", "q0", "iter", "iteration"}
"""What the second column of TREC's files holds, or is called; it says nothing."""

SHARED_NAMES = {
    "query": ("query", "queryid", "qid", "topic", "topicid"),
    "document": ("corpusid", "doc", "docid", "docno", "document", "documentid", "did", "pid", "passageid"),
    "iteration": tuple(ITERATIONS),
    "index": ("", "index", "unnamed0"),  # pandas writes its row numbers
}
"""What a column holds → its names in circulation, without case and punctuation."""

MOST_DIGITS = 40
"""Of a number; more are no judgement, rank or score."""


class ColumnLines:
    """Reads lines that hold a query, a document and more in columns; the first one may name them.

    Parameters
    ----------
    path : Path
        The file, for messages.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, int] = {}
        self._count = 0

    def _settle(self, places: Mapping[str, int], count: int) -> None:
        """From now on lines have so many columns, which stand where the places say."""
        self._places, self._count = dict(places), count

    def _subjects(self, columns: Sequence[str], line: int) -> tuple[str, str]:
        """Return the ids of query and document of a line, none of which may be empty."""
        query, document = columns[self._places["query"]], columns[self._places["document"]]
        if not query or not document:
            raise self._fault("expected an id of a query and one of a document, got an empty one", line)
        return query, document

    def _fault(self, message: str, line: int) -> DataError:
        return DataError(message, str(self._path), line)


def split_line(text: str, widths: Collection[int]) -> list[str]:
    """Split a line at tabs, which leave spaces inside ids alone, or else at spaces, or else at commas.

    Parameters
    ----------
    text : str
        The line.
    widths : collection of int
        Numbers of columns that have a meaning.

    Returns
    -------
    list of str
        The columns, without quotation marks where all but numbers have them; the caller counts them.
    """
    columns = _at_tabs(text, widths) if "\t" in text else _at_spaces_or_commas(text, widths)
    return _without_quotes([column.strip() for column in columns])


def whole_number(text: str) -> int | None:
    """Return a number without a fraction, such as ``1``, ``1.0`` or ``1e0``; None for anything else."""
    value = finite_number(text)
    return int(value) if value is not None and value.is_integer() and abs(value) < 2**31 else None


def finite_number(text: str) -> float | None:
    """Return a finite number in ASCII digits; None for anything else."""
    try:
        value = float(text) if text.isascii() and "_" not in text and len(text) <= MOST_DIGITS else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def named_columns(columns: Sequence[str], names: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Return where a first line says that each thing stands; empty if it is no line of names.

    Parameters
    ----------
    columns : sequence of str
        The columns of a file's first line.
    names : mapping
        What a column may hold, beside the shared ones → its names without case and punctuation.

    Returns
    -------
    dict
        What a column holds → its index; a column whose name is not known stands under ``"unknown"``.
    """
    known = {name: role for role, spellings in (SHARED_NAMES | dict(names)).items() for name in spellings}
    roles = [known.get(_plain(column), "unknown") for column in columns]
    if len(set(roles)) < len(roles) or not {"query", "document"} <= set(roles):
        return {}
    return {role: place for place, role in enumerate(roles)}


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def _at_tabs(text: str, widths: Collection[int]) -> list[str]:
    columns, words = text.rstrip().split("\t"), text.split()
    # Tabs among spaces: one meaning alone where TREC's second column shows which words are columns.
    of_trec = len(words) == max(widths) and words[1].lower() in ITERATIONS
    return words if len(columns) not in widths and of_trec else columns


def _at_spaces_or_commas(text: str, widths: Collection[int]) -> list[str]:
    words = text.split()
    commas_end_words = all(word.endswith(",") for word in words[:-1])
    if "," not in text or (len(words) in widths and not commas_end_words):
        return words
    try:
        columns = next(csv.reader([text], skipinitialspace=True))
    except csv.Error:
        return words
    return columns if len(columns) > len(words) or commas_end_words else words


def _without_quotes(columns: list[str]) -> list[str]:
    quoted = [len(column) > 1 and column[0] == column[-1] == '"' for column in columns]
    plain = [finite_number(column) is not None for column in columns]
    if not any(quoted) or not all(q or p or not column for q, p, column in zip(quoted, plain, columns, strict=True)):
        return columns
    return [c[1:-1].replace('""', '"').strip() if q else c for q, c in zip(quoted, columns, strict=True)]
