"""Lines of training data with where they stand, and what becomes of faulty ones."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from blockrank_rerank.formats import DataError
from blockrank_rerank.formats.folder import suffix_of
from blockrank_rerank.formats.jsonl import parse_jsonl
from blockrank_rerank.formats.lines import decode, raw_lines
from blockrank_rerank.formats.structured import TABLE_SUFFIXES, TableRows
from blockrank_rerank.system.files import check_readable

OnFault = Callable[[DataError], None]
"""Takes a fault. Whoever reads raises it; whoever validates notes it and goes on with the next line."""


@dataclass(frozen=True, slots=True)
class Row:
    """A parsed value, with the file and line that it came from."""

    name: str
    line: int
    value: Any

    @property
    def source(self) -> str:
        """Return where the row stands, as ``path:line``."""
        return f"{self.name}:{self.line}"

    def fault(self, message: str) -> DataError:
        """Make an error that names the row's file and line."""
        return DataError(message, self.name, self.line)


def refuse(fault: DataError) -> NoReturn:
    """Raise the fault, as the `OnFault` of a reader does."""
    raise fault


class Noted:
    """An `OnFault` that counts the faults it passes on: a file whose lines are all at fault is not empty."""

    def __init__(self, on_fault: OnFault) -> None:
        self.faults, self._on_fault = 0, on_fault

    def __call__(self, fault: DataError) -> None:
        """Count the fault and pass it on."""
        self.faults += 1
        self._on_fault(fault)


def text_rows(path: Path, on_fault: OnFault) -> Iterator[Row]:
    """Read the non-blank lines of a UTF-8 file; unlike `formats.read_lines` it can go on after a fault."""
    check_readable(path, "lines")
    for number, raw in enumerate(raw_lines(path), start=1):
        try:
            line = decode(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw, str(path), number)
        except DataError as fault:
            on_fault(fault)
            continue
        if line.strip():
            yield Row(str(path), number, line.rstrip("\r\n"))


def example_rows(path: Path, noun: str, on_fault: OnFault) -> Iterator[Row]:
    """Read the rows of a file: those of a table where its name says so, else the JSON values of its lines."""
    return (table_rows if suffix_of(path) in TABLE_SUFFIXES else jsonl_rows)(path, noun, on_fault)


def table_rows(path: Path, noun: str, on_fault: OnFault) -> Iterator[Row]:
    """Read the rows of a table as objects, by the names in its first line; an empty cell is None.

    A row that cannot be read, or has more or fewer cells, is a fault, and so is a table without names.
    """
    noted = Noted(on_fault)
    lines = ((row.line, row.value) for row in text_rows(path, noted))
    head = next(lines, None)
    if head is None:
        if not noted.faults:
            on_fault(
                DataError(
                    f"the file is empty: expected a line that names the columns, and one {noun} per row", str(path)
                )
            )
        return
    rows = TableRows(chain([head], lines), next((mark for mark in "\t,;" if mark in head[1]), ","))
    names: list[str] = []
    while True:
        try:
            cells = next(rows, None)
        except csv.Error as error:
            on_fault(DataError(f"not a row of a table: {error}", str(path), rows.line))
            continue
        if cells is None:
            return
        if not cells:
            continue  # a blank line between rows
        if not names:
            names = [cell.strip() for cell in cells]
            if len(set(names)) < len(names):
                return on_fault(
                    DataError(f"expected every column to have a name of its own, got {names}", str(path), rows.line)
                )
        elif len(cells) != len(names):
            on_fault(
                DataError(
                    f"expected {len(names)} cells, as the first line has, got {len(cells)}", str(path), rows.start
                )
            )
        else:
            yield Row(str(path), rows.start, {name: cell or None for name, cell in zip(names, cells, strict=True)})


def jsonl_rows(path: Path, noun: str, on_fault: OnFault) -> Iterator[Row]:
    """Read the JSON values of a file's lines, each of which holds one `noun`; a file without lines is a fault."""
    noted = Noted(on_fault)
    empty = True
    for row in text_rows(path, noted):
        empty = False
        try:
            [(_, value)] = parse_jsonl([(row.line, row.value)], row.name)
        except DataError as fault:
            on_fault(fault)
        else:
            yield Row(row.name, row.line, value)
    if empty and not noted.faults:
        on_fault(DataError(f"the file is empty: expected one {noun} per line", str(path)))
