"""JSON values of lines, and checked access to their fields."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from blockrank_rerank.errors import DataError

OPENINGS = {"[", "[{", "{"}
"""Lines with which a JSON array, or an indented object, begins."""
MOST_NESTED = 200
"""Brackets within brackets; Python gives up at about a thousand."""
ONE_PER_LINE = "; every line must hold one whole value: jq -c '.[]' FILE writes an array so, jq -c . FILE an object"


def parse_jsonl(lines: Iterable[tuple[int, str]], name: str) -> Iterator[tuple[int, Any]]:
    """Parse the JSON value of every line.

    Parameters
    ----------
    lines : iterable of (int, str)
        Numbered lines, as from `read_lines`.
    name : str
        File name for error messages.

    Raises
    ------
    DataError
        If a line is not valid JSON.
    """
    for number, line in lines:
        try:
            check_depth(line)
            value = DECODER.decode(line)
        except json.JSONDecodeError as error:
            advice = ONE_PER_LINE if line.strip() in OPENINGS else ""
            raise DataError(f"not valid JSON: {error.msg} at column {error.colno}{advice}", name, number) from None
        except ValueError as error:
            raise DataError(f"not usable JSON: {error}", name, number) from None
        yield number, value


def json_type(value: object) -> str:
    """Name a parsed value's type, for error messages."""
    return "null" if value is None else type(value).__name__


def string_field(record: dict[str, Any], key: str, name: str, line: int) -> str:
    """Return a field that must be a string.

    Raises
    ------
    DataError
        If it is missing or anything else.
    """
    value = record.get(key)
    if not isinstance(value, str):
        found = json_type(value) if key in record else "nothing"
        raise DataError(f'expected "{key}" to be a string, got {found}', name, line)
    return value


def optional_string_field(record: dict[str, Any], key: str, name: str, line: int) -> str | None:
    """Return a field that may be missing or null, and must be a string otherwise."""
    return None if record.get(key) is None else string_field(record, key, name, line)


def identifier_field(record: dict[str, Any], key: str, name: str, line: int) -> str:
    """Return an id, which is a non-empty string, or an integer as some collections write.

    Raises
    ------
    DataError
        If it is missing, empty or anything else.
    """
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not string_field(record, key, name, line):
        raise DataError(f'expected "{key}" to be a non-empty string, got ""', name, line)
    return str(value)


def check_depth(text: str) -> None:
    """Refuse JSON that would exhaust the stack, here or where it is written again.

    Raises
    ------
    ValueError
        If brackets are nested too deeply.
    """
    if text.count("[") + text.count("{") <= MOST_NESTED:
        return
    depth = 0
    for token in (match[0] for match in _BRACKETS.finditer(text)):
        depth += (token in "[{") - (token in "]}")
        if depth > MOST_NESTED:
            raise ValueError(f"brackets are nested more than {MOST_NESTED} deep; flatten the value or leave it out")


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} comes twice")
    return record


def _finite(number: str) -> float:
    if math.isinf(value := float(number)):
        raise ValueError(f"{number[:20]} is not a finite number")
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_record)
