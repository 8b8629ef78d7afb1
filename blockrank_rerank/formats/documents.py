"""Documents of text files, JSONL and standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from blockrank_rerank.errors import DataError
from blockrank_rerank.formats.jsonl import (
    ONE_PER_LINE,
    identifier_field,
    json_type,
    optional_string_field,
    parse_jsonl,
    string_field,
)
from blockrank_rerank.formats.lines import decode_lines, read_lines
from blockrank_rerank.formats.structured import (
    TABLE_SUFFIXES,
    begins_array,
    is_object,
    json_values,
    table_delimiter,
    table_records,
)

Numbered = Iterator[tuple[int, str]]

STDIN = Path("-")
STDIN_NAME = "<stdin>"
# A .json file is read line by line as well: reading it as text would rank its brackets.
JSONL_SUFFIXES = {".jsonl", ".ndjson", ".json"}


@dataclass(frozen=True, kw_only=True)
class FileDocument:
    """One document, with the file and line that it came from.

    Parameters
    ----------
    text : str
        Text to rank.
    source : str
        ``file:line``.
    title : str, optional
        Title, from JSONL only.
    id : str, optional
        ``"_id"`` or ``"id"``, from JSONL only.
    metadata : dict
        All other JSON keys, kept for output.
    """

    text: str
    source: str
    title: str | None = None
    id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> str | dict[str, str]:
        """Return the document as the ranker takes it."""
        return {"title": self.title, "text": self.text} if self.title else self.text


def read_documents(paths: Sequence[Path]) -> list[FileDocument]:
    """Read the documents of several files, in order.

    Parameters
    ----------
    paths : sequence of Path
        Text files (one document per non-blank line), ``.jsonl`` files (strings, or objects with
        ``"text"`` and optional ``"title"`` and ``"_id"``), or ``-`` for standard input, which is JSONL
        when its first non-blank line starts with ``{`` or ``"``; and so are pipes, which have no suffix.
        JSON arrays, indented JSON and tables whose first line names a column ``text`` are read where they come.

    Returns
    -------
    list of FileDocument

    Raises
    ------
    DataError
        If a line cannot be read, a table has no column ``text``, a file is markup, or there is no document at all.
    """
    documents = list(chain.from_iterable(map(_read, paths)))
    if not documents:
        names = ", ".join(_name(path) for path in paths)
        raise DataError(f"no documents in {names}: expected one document per non-empty line")
    return documents


def _read(path: Path) -> Iterator[FileDocument]:
    if path == STDIN:
        return _from_pipe(decode_lines(sys.stdin.buffer, STDIN_NAME), STDIN_NAME)
    lines, name = read_lines(path), str(path)
    if path.suffix.lower() in JSONL_SUFFIXES:
        return _from_jsonl(lines, name)
    return _from_pipe(lines, name) if path.is_fifo() else _from_file(lines, name, path.suffix.lower() in TABLE_SUFFIXES)


def _from_pipe(lines: Numbered, name: str) -> Iterator[FileDocument]:
    first = next(lines, None)
    if first is None:
        return iter(())
    every, start = chain([first], lines), first[1].lstrip()
    if start.rstrip() == "{" or begins_array(start):
        return _from_values(json_values(every, name), name)
    delimiter = None if start.startswith("{") else table_delimiter(start, False, name, first[0])
    if delimiter:
        return _from_values(table_records(every, delimiter, name), name)
    return (_from_jsonl if start.startswith(("{", '"')) else _from_text)(every, name)


def _from_file(lines: Numbered, name: str, is_table: bool) -> Iterator[FileDocument]:
    """Read a file whose name says nothing of JSON; what begins as JSON with a text is none the less JSON."""
    first = next(lines, None)
    if first is None:
        return iter(())
    every, start = chain([first], lines), first[1]
    if not is_table and begins_array(start):
        return _from_values(json_values(every, name), name)
    if not is_table and is_object(start):
        return _from_jsonl(every, name)
    delimiter = table_delimiter(start, is_table, name, first[0])
    return _from_values(table_records(every, delimiter, name), name) if delimiter else _from_text(every, name)


def _from_text(lines: Iterable[tuple[int, str]], name: str) -> Iterator[FileDocument]:
    for number, line in lines:
        yield FileDocument(text=line.strip(), source=f"{name}:{number}")


def _from_jsonl(lines: Iterable[tuple[int, str]], name: str) -> Iterator[FileDocument]:
    return _from_values(parse_jsonl(lines, name), name)


def _from_values(values: Iterable[tuple[int, object]], name: str) -> Iterator[FileDocument]:
    return (_from_value(value, name, number) for number, value in values)


def _from_value(value: object, name: str, line: int) -> FileDocument:
    source = f"{name}:{line}"
    if isinstance(value, str):
        return FileDocument(text=value, source=source)
    if not isinstance(value, dict):
        advice = ONE_PER_LINE if isinstance(value, list) and line == 1 else ""
        raise DataError(f'expected a string or a JSON object with "text", got {json_type(value)}{advice}', name, line)
    return FileDocument(
        text=string_field(value, "text", name, line),
        source=source,
        title=optional_string_field(value, "title", name, line),
        id=_identifier(value, name, line),
        metadata={key: item for key, item in value.items() if key not in {"text", "title", "_id", "id"}},
    )


def _identifier(record: dict[str, Any], name: str, line: int) -> str | None:
    key = next((key for key in ("_id", "id") if record.get(key) is not None), None)
    return identifier_field(record, key, name, line) if key else None


def _name(path: Path) -> str:
    return STDIN_NAME if path == STDIN else str(path)
