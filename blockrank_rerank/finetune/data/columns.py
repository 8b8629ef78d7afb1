from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from blockrank_rerank.finetune.data.row import Row
from blockrank_rerank.formats.jsonl import json_type


class ColumnMapping:
    """From the columns that a file has to those that a format knows.

    Parameters
    ----------
    columns : mapping, optional
        Known name → the file's name. With a mapping, columns that it does not name and the format does not
        know are ignored; without one they are a fault, since a misspelt "neg" would be lost silently.
    known, required, ignored : tuple of str
        Columns that the format reads, that it cannot do without, and that belong to others' tools.

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
    ) -> None:
        self._columns = dict(columns or {})
        self._known, self._required, self._ignored = known, required, ignored
        strange = sorted(set(self._columns) - set(known))
        if strange:
            raise ValueError(f"columns may map {', '.join(known)}, got {', '.join(strange)}")

    def apply(self, row: Row) -> dict[str, Any]:
        """Values of a row by known name.

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
        unknown = [] if self._columns else [key for key in row.value if key not in (*self._known, *self._ignored)]
        missing = [key for key in self._required if values.get(key) is None]
        if missing:
            spare = [key for key in row.value if key not in values and key not in self._ignored]
            raise row.fault(
                f"no column {_quoted(missing)}; found: {_found(row)}; known: {_quoted(self._known)}; "
                f"map it: {_mapping(missing[0], _closest(missing[0], spare) or '<its name>')}"
            )
        if unknown:
            raise row.fault(
                f"unknown column {_quoted(unknown)}; known: {_quoted(self._known)}; {self._advice(unknown[0], values)}"
            )

    def _advice(self, unknown: str, values: Mapping[str, Any]) -> str:
        close = get_close_matches(unknown, [key for key in self._known if key not in values], n=1)
        if close:
            return f"map it: {_mapping(close[0], unknown)}"
        return f"to ignore it, name a column that is to be read: {_mapping('query', 'query')}"


def _closest(known: str, spare: list[str]) -> str | None:
    return next(iter(get_close_matches(known, spare, n=1) or spare), None)


def _mapping(known: str, theirs: str) -> str:
    return f"columns={{{known!r}: {theirs!r}}} (--column {known}={theirs})"


def _quoted(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _found(row: Row) -> str:
    return _quoted(list(row.value)) or "no column"
