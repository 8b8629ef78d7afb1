from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from blockrank_rerank.formats import DataError
from blockrank_rerank.formats.jsonl import parse_jsonl
from blockrank_rerank.formats.lines import decode

OnFault = Callable[[DataError], None]
"""Takes a fault. Whoever reads raises it; whoever validates notes it and goes on with the next line."""


@dataclass(frozen=True, slots=True)
class Row:
    """A parsed value and the place that it came from."""

    name: str
    line: int
    value: Any

    @property
    def source(self) -> str:
        """``path:line``."""
        return f"{self.name}:{self.line}"

    def fault(self, message: str) -> DataError:
        """An error that names this place."""
        return DataError(message, self.name, self.line)


def refuse(fault: DataError) -> NoReturn:
    """Raise the fault: the `OnFault` of a reader."""
    raise fault


def text_rows(path: Path, on_fault: OnFault) -> Iterator[Row]:
    """Non-blank lines of a UTF-8 file; unlike `formats.read_lines` it can go on after a fault."""
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                line = decode(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw, str(path), number)
            except DataError as fault:
                on_fault(fault)
                continue
            if line.strip():
                yield Row(str(path), number, line.rstrip("\r\n"))


def jsonl_rows(path: Path, on_fault: OnFault) -> Iterator[Row]:
    """JSON values of a file's lines."""
    for row in text_rows(path, on_fault):
        try:
            [(_, value)] = parse_jsonl([(row.line, row.value)], row.name)
        except DataError as fault:
            on_fault(fault)
        else:
            yield Row(row.name, row.line, value)
