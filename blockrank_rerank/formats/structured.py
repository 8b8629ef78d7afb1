"""Structure in what should be one document per line: JSON over several lines, tables, and markup."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

from blockrank_rerank.errors import DataError
from blockrank_rerank.formats.jsonl import DECODER, check_depth
from blockrank_rerank.formats.text_names import KNOWN, PLAIN_TEXT_NAMES, plain_name, text_name

Lines = Iterable[tuple[int, str]]

TABLE_SUFFIXES = {".csv", ".tsv", ".tab"}
ARRAY = re.compile(r'\s*\[\s*($|[{"\[\]])')
"""How a JSON array of documents begins; a line such as ``[1] Smith`` is text."""
MARKUP = ("<?xml", "<!doctype", "<html")
OTHER_NAMES = {"id", "docid", "pid", "index", "title", "url", "source", "metadata", "date", "author", "label", "score"}
"""Names of columns, without case and punctuation."""
LONGEST_NAMES = 1000
"""Characters of a first line that are looked at."""
LARGEST_CELL = (1 << 31) - 1
"""Characters; Python's own limit is 131,072."""
SPACE = re.compile(r"\s*,?\s*")
JSON_ADVICE = "; write one document per line: jq -c '.[]' FILE writes an array so, jq -c . FILE objects"


def begins_array(line: str) -> bool:
    """Say whether a first line begins a JSON array of documents."""
    return ARRAY.match(line) is not None


def is_object(line: str) -> bool:
    """Say whether a line is a JSON object that holds something."""
    if not line.lstrip().startswith("{"):
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and bool(value)


def json_values(lines: Lines, name: str) -> Iterator[tuple[int, object]]:
    """Read the elements of a JSON array, or JSON values one after the other, each over any number of lines.

    Parameters
    ----------
    lines : iterable of (int, str)
        Numbered lines.
    name : str
        File name for error messages.

    Yields
    ------
    tuple of (int, object)
        Line on which the value begins, and the value.

    Raises
    ------
    DataError
        If something is not valid JSON.
    """
    numbers, texts = zip(*lines, strict=True)
    text = "\n".join(texts)
    in_array = text.lstrip().startswith("[")
    place, seen, row = text.index("[") + 1 if in_array else 0, 0, 0
    with _named(name, numbers[0]):
        check_depth(text)
    while True:
        gap = SPACE.match(text, place)
        place = gap.end() if gap else place
        row, seen = row + text.count("\n", seen, place), place
        if place >= len(text) or (in_array and text[place] == "]"):
            break
        with _named(name, numbers[row]):
            value, place = DECODER.raw_decode(text, place)
        yield numbers[row], value
    if in_array and text[place:].rstrip() != "]":
        raise DataError(f"not valid JSON: the array has no end, or text after it{JSON_ADVICE}", name, numbers[row])


@contextmanager
def _named(name: str, line: int) -> Iterator[None]:
    """Name file and line of what is no JSON."""
    try:
        yield
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg}{JSON_ADVICE}", name, line) from None
    except ValueError as error:
        raise DataError(f"not usable JSON: {error}", name, line) from None


def table_delimiter(first: str, is_table: bool, columns: Mapping[str, str], name: str, line: int) -> str | None:
    """Return what stands between the columns of a table of documents; None where the text is no table.

    Parameters
    ----------
    first : str
        The first line.
    is_table : bool
        Whether the file's name says so.
    columns : mapping
        ``text``, ``title`` or ``id`` → the column of it, where it is known.
    name, line
        Where it stands, for messages.

    Raises
    ------
    DataError
        If it is a table without a column of text, or markup.
    """
    if first.lstrip().lower().startswith(MARKUP):
        raise DataError(
            "this is markup, and its tags would be ranked: write the text of one document per line, or JSONL of "
            'objects with "text"',
            name,
            line,
        )
    delimiter = next((mark for mark in "\t,;" if mark in first), ",")
    names = _names(first, delimiter)
    told = {plain_name(columns["text"])} if "text" in columns else set()
    texts = PLAIN_TEXT_NAMES | told
    known = set(names) & (texts | OTHER_NAMES)
    looks_like_names = len(names) > 1 and known & texts and (len(known) > 1 or delimiter == "\t" or known & told)
    if not is_table and not looks_like_names:
        return None
    if names.count("text") > 1 or not (known & texts or "text" in columns):
        found = ", ".join(cell.strip() for cell in first.split(delimiter))
        raise DataError(
            f'this is a table: expected a first line that names its columns, one of them "text", got {found[:100]}; '
            "if it names them, say which holds the text: --column text=YOURS",
            name,
            line,
        )
    return delimiter


def _names(first: str, delimiter: str) -> list[str]:
    try:
        return [plain_name(cell) for cell in next(csv.reader([first[:LONGEST_NAMES]], delimiter=delimiter))]
    except csv.Error:
        return []


def table_records(
    lines: Lines, delimiter: str, columns: Mapping[str, str], name: str
) -> Iterator[tuple[int, dict[str, object]]]:
    """Read the rows of a table, whose first line names the columns, as objects of JSONL.

    Yields
    ------
    tuple of (int, dict)
        Line on which the row begins, and its values by name; ``text``, ``title`` and ``id`` in lower case, unless
        ``columns`` says what else they are called. Empty cells are left out, but for those of text.

    Raises
    ------
    DataError
        If a row has more or fewer cells than the first, or cannot be read.
    """
    rows = TableRows(lines, delimiter)
    names: list[str] = []
    kept = {*columns.values()}
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise DataError(f"not a row of a table: {error}", name, rows.line) from None
        if row is None:
            return
        if not row:
            continue  # a blank line between rows
        if not names:
            names = [_key(cell, kept) for cell in row]
            if len(set(names)) < len(names):
                raise DataError(f"expected every column to have a name of its own, got {names}", name, rows.line)
            kept.add(text_name(names, columns, name, rows.line))
        elif len(row) != len(names):
            message = (
                f"expected {len(names)} cells, as the first line has, got {len(row)}; quote text with {delimiter!r}"
            )
            raise DataError(message, name, rows.line)
        else:
            yield rows.start, {key: cell for key, cell in zip(names, row, strict=True) if cell or key in kept}


class TableRows(Iterator[list[str]]):
    """Splits lines into the cells of rows; raises csv.Error for what is none, and may be asked for the next.

    A cell may be a document of any length, and over several lines where it is quoted. Files between tabs may quote
    nothing, as those of TREC and MS MARCO do, so that text may begin with a quotation mark: where the lines that it
    would take in are rows themselves, or what follows it cannot be quoted, a line is split at its tabs.

    Parameters
    ----------
    lines : iterable of (int, str)
        Numbered lines; blank ones, of which only the numbers tell, may be part of a cell.
    delimiter : str
        What stands between cells.

    Attributes
    ----------
    start, line : int
        Lines on which the last row begins and ends.
    """

    def __init__(self, lines: Lines, delimiter: str) -> None:
        csv.field_size_limit(LARGEST_CELL)
        self._lines, self._delimiter = _with_blank_ones(lines), delimiter
        self._next: list[tuple[int, str]] = []
        self._cells = 0
        self.start = self.line = 0

    def __next__(self) -> list[str]:
        """Return the cells of the next row, none of a blank line."""
        self.line, first = self._next.pop() if self._next else next(self._lines)
        self.start = self.line
        try:
            row = next(csv.reader(self._of_row(first), delimiter=self._delimiter, strict=True))
        except csv.Error:
            if not self._is_row(first) or self.line > self.start:
                raise
            row = first.split(self._delimiter)
        self._cells = self._cells or len(row)
        return row

    def _of_row(self, first: str) -> Iterator[str]:
        """Yield a line and those which a cell of it may go on in."""
        yield first + "\n"
        for number, text in self._lines:
            if self._is_row(first) and self._is_row(text):
                return self._next.append((number, text))
            self.line = number
            yield text + "\n"

    def _is_row(self, line: str) -> bool:
        """Whether a line has all cells of a row between tabs, which text seldom has, as it has commas."""
        return self._delimiter == "\t" and self._cells == line.count("\t") + 1


def _with_blank_ones(lines: Lines) -> Iterator[tuple[int, str]]:
    last = None
    for number, text in lines:
        yield from ((blank, "") for blank in range(number if last is None else last + 1, number))
        last = number
        yield number, text


def _key(cell: str, mapped: Collection[str]) -> str:
    plain, stripped = plain_name(cell), cell.strip()
    return plain if plain in KNOWN and stripped not in mapped else stripped
