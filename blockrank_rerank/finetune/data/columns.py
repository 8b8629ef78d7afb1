"""The columns of rows, under the names that formats know."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from blockrank_rerank.finetune.data.row import Row
from blockrank_rerank.formats.jsonl import json_type

RESEMBLANCE = 0.75
"""Of a misspelt name and the right one, between 0 and 1 as difflib counts: "qeury" resembles "query" by 0.8."""

MEANT = {
    "query": frozenset(["question", "anchor", "search_query", "query_text", "sentence1"]),
    "pos": frozenset(
        [
            "positive",
            "positives",
            "positive_passages",
            "positive_ctxs",
            "pos_passages",
            "pos_text",
            "answer",
            "answers",
            "chosen",
        ]
    ),
    "neg": frozenset(
        [
            "negative",
            "negatives",
            "negs",
            "negative_passages",
            "negative_ctxs",
            "hard_negative",
            "hard_negatives",
            "hard_negative_ctxs",
            "neg_passages",
            "neg_text",
            "rejected",
        ]
    ),
}
"""Column → the names, in lower case, that other tools give it; a column of any other name may mean the opposite."""


class ColumnMapping:
    """Maps the columns that a file has to those that a format knows.

    Parameters
    ----------
    columns : mapping, optional
        Known name → the file's name. With a mapping, columns that it does not name and the format does not
        know are ignored with a warning; without one they are a fault, since a misspelt "neg" would be lost.
    known, required, ignored : tuple of str
        Columns that the format reads, that it cannot do without, and that belong to others' tools.
    may_be_empty : str, optional
        One of those it cannot do without, in which a row may have nothing.

    Raises
    ------
    ValueError
        If the mapping names a column that the format does not know.
    """

    def __init__(
        self,
        columns: Mapping[str, str] | None,
        known: tuple[str, ...],
        required: tuple[str, ...],
        ignored: tuple[str, ...] = (),
        may_be_empty: str | None = None,
    ) -> None:
        self._columns = dict(columns or {})
        self._known, self._required, self._ignored = known, required, ignored
        self._may_be_empty = may_be_empty
        self._unread: set[str] = set()
        strange = sorted(set(self._columns) - set(known))
        if strange:
            raise ValueError(f"columns may map {', '.join(known)}, got {', '.join(strange)}")

    def apply(self, row: Row) -> dict[str, Any]:
        """Return the values of a row by known name.

        Raises
        ------
        DataError
            If the row is not an object, or has too few or unknown columns.
        """
        if not isinstance(row.value, dict):
            raise row.fault(f"expected a JSON object with {_quoted(self._required)}, got {json_type(row.value)}")
        self._check_mapped(row)
        taken = set(self._columns.values())
        values = {key: value for key, value in row.value.items() if key in self._known and key not in taken}
        values |= {known: row.value[theirs] for known, theirs in self._columns.items()}
        self._check(row, values)
        return values

    def _check_mapped(self, row: Row) -> None:
        absent = [theirs for theirs in self._columns.values() if theirs not in row.value]
        if absent:
            raise row.fault(f"no column {_quoted(absent)}, which the column mapping names; found: {_found(row)}")

    def _check(self, row: Row, values: Mapping[str, Any]) -> None:
        read = {*self._known, *self._ignored, *self._columns.values()}
        unknown = [key for key in row.value if key not in read]
        there = {key for key, value in values.items() if value is not None or key == self._may_be_empty}
        missing = [key for key in self._required if key not in there]
        if missing:
            spare = [key for key in row.value if key not in values and key not in self._ignored]
            raise row.fault(
                f"no column {_quoted(missing)}; found: {_found(row)}; known: {_quoted(self._known)}; "
                f"map it: {column_mapping(_advised(missing, values, spare))}"
            )
        if unknown and self._columns:
            self._warn(row, unknown)
        elif unknown:
            raise row.fault(
                f"unknown column {_quoted(unknown)}; known: {_quoted(self._known)}; {self._advice(unknown, values)}"
            )

    def _warn(self, row: Row, unknown: list[str]) -> None:
        """Say once that a column is not read."""
        new = [key for key in unknown if key not in self._unread]
        self._unread.update(new)
        if new:
            warnings.warn(
                f"{row.source}: column {_quoted(new)} is not read; known: {_quoted(self._known)}", stacklevel=2
            )

    def _advice(self, unknown: list[str], values: Mapping[str, Any]) -> str:
        meant = _meant([key for key in self._known if key not in values], unknown)
        if meant:
            return f"map it: {column_mapping(meant)}"
        return f"to ignore it, name a column that is to be read: {column_mapping({'query': 'query'})}"


def column_mapping(columns: Mapping[str, str]) -> str:
    """Spell a mapping of columns as it is written in Python and on the command line."""
    options = " ".join(f"--column {known}={theirs}" for known, theirs in columns.items())
    return f"columns={dict(columns)} in Python or a training collection's settings, {options} for the other commands"


def _advised(missing: list[str], values: Mapping[str, Any], spare: list[str]) -> dict[str, str]:
    """Find the spare column for every missing one, and for the negatives, which would else be left unread."""
    wanted = [*missing, *(["neg"] if "pos" in missing and "neg" not in values else [])]
    found = _meant(wanted, spare)
    return {name: found.get(name, "<its name>") for name in wanted if name in missing or name in found}


def _meant(known: list[str], spare: list[str]) -> dict[str, str]:
    """Find the known columns that spare ones are other names or misspellings of, each used once."""
    found: dict[str, str] = {}
    for name in known:
        unused = [key for key in spare if key not in found.values()]
        named = [key for key in unused if key.lower() in MEANT.get(name, ())]
        if close := named or get_close_matches(name, unused, n=1, cutoff=RESEMBLANCE):
            found[name] = close[0]
    return found


def _quoted(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _found(row: Row) -> str:
    return _quoted(list(row.value)) or "no column"
