"""What a run wrote down about itself, as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blockrank_rerank.errors import DataError


def read_record(path: Path) -> dict[str, Any]:
    """Read the JSON object of a file.

    Raises
    ------
    DataError
        For a file that is empty or torn.
    """
    return _parsed(path.read_bytes(), path, None)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read the JSON objects of a file's lines.

    Raises
    ------
    DataError
        For a line that is torn, with its number.
    """
    lines = path.read_bytes().splitlines()
    return [_parsed(line, path, number) for number, line in enumerate(lines, start=1)]


def _parsed(text: bytes, path: Path, line: int | None) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise DataError(
            f"expected a JSON object as the run wrote it, got {text[:40]!r}: the file is damaged; put a copy of it "
            "back, or begin anew with another output",
            str(path),
            line,
        )
    return record
