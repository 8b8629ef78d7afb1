"""Documents of text files, JSONL, tables, folders and standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from blockrank_rerank.errors import DataError
from blockrank_rerank.formats.folder import JSONL_SUFFIXES, MARKDOWN_SUFFIXES, files_of, suffix_of
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
from blockrank_rerank.formats.text_names import check_columns, column_advice, text_name
from blockrank_rerank.formats.units import Unit, units_of
from blockrank_rerank.system.files import UserPath, expanded

Numbered = Iterator[tuple[int, str]]

STDIN = Path("-")
STDIN_NAME = "<stdin>"


@dataclass(frozen=True, kw_only=True)
class FileDocument:
    """One document, with the file and line that it came from.

    Parameters
    ----------
    text : str
        Text to rank.
    source : str
        ``file:line``, or ``file`` where the whole of it is the document.
    title : str, optional
        Title, from JSONL and tables only.
    id : str, optional
        ``"_id"`` or ``"id"``, from JSONL and tables only.
    metadata : dict
        All other keys and columns, kept for output.
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


def read_documents(
    paths: UserPath | Sequence[UserPath], *, unit: Unit | None = None, columns: Mapping[str, str] | None = None
) -> list[FileDocument]:
    """Read the documents of a file or of several, in order.

    Parameters
    ----------
    paths : str or path-like, or sequence of these
        Text files, ``.jsonl`` files (strings, or objects with ``"text"`` and optional ``"title"`` and ``"_id"``),
        tables whose first line names their columns, any of them with ``.gz`` after its name, folders of such files (of
        a BEIR folder ``corpus.jsonl`` alone),
        or ``-`` for standard input, which is JSONL when its first non-blank line starts with ``{`` or ``"``; and so
        are pipes, which have no suffix. JSON arrays, indented JSON and tables are read where they come.
        ``"content"``, ``"passage"`` and others of `TEXT_NAMES` are read where there is no ``"text"``.
    unit : str, optional
        What one document of a text is: ``line``, ``paragraph``, ``heading`` or ``file``. By default a file in a folder
        is one document, Markdown is read by paragraphs, and everything else by lines.
    columns : mapping, optional
        ``text``, ``title`` or ``id`` → what it is called in objects and tables.

    Returns
    -------
    list of FileDocument

    Raises
    ------
    DataError
        If a line cannot be read, an object or table has no text, or several fields that could be it, a file is
        markup, or there is no document at all.
    FileNotFoundError
        If a file is not there, or a folder has none that is read.
    ValueError
        If ``columns`` maps anything else, or nothing that is read has names.
    """
    mapped = dict(columns or {})
    check_columns(mapped)
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    files = [expanded(path, "paths") for path in given]
    how = _Reading(name="", columns=mapped, unit=unit or "line", with_names=set())
    documents = [document for file in files for document in _read(file, unit, how)]
    names = ", ".join(map(_name, files))
    if not documents:
        raise DataError(f"no documents in {names}: expected one document per non-empty line")
    if mapped and not how.with_names:
        raise ValueError(
            f"--column {' '.join(f'{known}={theirs}' for known, theirs in mapped.items())} must come with JSON objects "
            f"or a table, got {names}, whose documents are text without names; leave it out"
        )
    return documents


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """The name of what is read, and how: see `read_documents`. Notes the sources that have names for what they hold."""

    name: str
    columns: Mapping[str, str]
    unit: Unit
    with_names: set[str]


def _read(path: Path, unit: Unit | None, how: _Reading) -> Iterator[FileDocument]:
    how = replace(how, name=_name(path))
    if path == STDIN:
        return _from_pipe(decode_lines(sys.stdin.buffer, STDIN_NAME), how)
    if path.is_dir():
        whole = replace(how, unit=unit or "file")
        return chain.from_iterable(_of_file(file, replace(whole, name=str(file))) for file in files_of(path))
    by_paragraph = unit is None and suffix_of(path) in MARKDOWN_SUFFIXES
    return _of_file(path, replace(how, unit="paragraph") if by_paragraph else how)


def _of_file(path: Path, how: _Reading) -> Iterator[FileDocument]:
    lines, suffix = read_lines(path), suffix_of(path)
    if suffix in JSONL_SUFFIXES:
        return _from_jsonl(lines, how)
    return _from_pipe(lines, how) if path.is_fifo() else _from_named_file(lines, suffix in TABLE_SUFFIXES, how)


def _from_pipe(lines: Numbered, how: _Reading) -> Iterator[FileDocument]:
    first = next(lines, None)
    if first is None:
        return iter(())
    every, start = chain([first], lines), first[1].lstrip()
    if start.rstrip() == "{" or begins_array(start):
        return _from_values(json_values(every, how.name), how)
    delimiter = None if start.startswith("{") else table_delimiter(start, False, how.columns, how.name, first[0])
    if delimiter:
        return _from_values(table_records(every, delimiter, how.columns, how.name), how)
    return (_from_jsonl if start.startswith(("{", '"')) else _from_text)(every, how)


def _from_named_file(lines: Numbered, is_table: bool, how: _Reading) -> Iterator[FileDocument]:
    """Read a file whose name says nothing of JSON; what begins as JSON with a text is none the less JSON."""
    first = next(lines, None)
    if first is None:
        return iter(())
    every, start = chain([first], lines), first[1]
    if not is_table and begins_array(start):
        return _from_values(json_values(every, how.name), how)
    if not is_table and is_object(start):
        return _from_jsonl(every, how)
    delimiter = table_delimiter(start, is_table, how.columns, how.name, first[0])
    if delimiter:
        return _from_values(table_records(every, delimiter, how.columns, how.name), how)
    return _from_text(every, how)


def _from_text(lines: Iterable[tuple[int, str]], how: _Reading) -> Iterator[FileDocument]:
    for number, text in units_of(lines, how.unit):
        yield FileDocument(text=text, source=how.name if how.unit == "file" else f"{how.name}:{number}")


def _from_jsonl(lines: Iterable[tuple[int, str]], how: _Reading) -> Iterator[FileDocument]:
    return _from_values(parse_jsonl(lines, how.name), how)


def _from_values(values: Iterable[tuple[int, object]], how: _Reading) -> Iterator[FileDocument]:
    return (_from_value(value, number, how) for number, value in values)


def _from_value(value: object, line: int, how: _Reading) -> FileDocument:
    name, columns, source = how.name, how.columns, f"{how.name}:{line}"
    if isinstance(value, str):
        return FileDocument(text=value, source=source)
    if not isinstance(value, dict):
        advice = ONE_PER_LINE if isinstance(value, list) and line == 1 else ""
        raise DataError(f'expected a string or a JSON object with "text", got {json_type(value)}{advice}', name, line)
    how.with_names.add(name)
    text, title = text_name(value, columns, name, line), columns.get("title", "title")
    if text not in value:
        raise DataError(f'expected "text" to be a string, got nothing{column_advice(value)}', name, line)
    return FileDocument(
        text=string_field(value, text, name, line),
        source=source,
        title=optional_string_field(value, title, name, line),
        id=_identifier(value, columns, name, line),
        metadata={key: item for key, item in value.items() if key not in {text, title, *_id_names(columns)}},
    )


def _id_names(columns: Mapping[str, str]) -> tuple[str, ...]:
    return (columns["id"],) if "id" in columns else ("_id", "id")


def _identifier(record: dict[str, Any], columns: Mapping[str, str], name: str, line: int) -> str | None:
    key = next((key for key in _id_names(columns) if record.get(key) is not None), None)
    return identifier_field(record, key, name, line) if key else None


def _name(path: Path) -> str:
    return STDIN_NAME if path == STDIN else str(path)
