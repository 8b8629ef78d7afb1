"""What one document of a text file is: a line, a paragraph, what stands under a heading, or the whole file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

Unit = Literal["line", "paragraph", "heading", "file"]
UNITS: tuple[Unit, ...] = get_args(Unit)

HEADING = re.compile(r" {0,3}#{1,6}\s")
"""How a heading of Markdown begins."""
FENCE = re.compile(r" {0,3}(```|~~~)")
"""What stands around code in Markdown, in which blank lines and # mean nothing."""


def units_of(lines: Iterable[tuple[int, str]], unit: Unit) -> Iterator[tuple[int, str]]:
    """Put the lines of a text together to documents.

    Parameters
    ----------
    lines : iterable of (int, str)
        Numbered lines that are not blank, as of `read_lines`: a gap in the numbers is where blank lines are.
    unit : str
        ``line``; ``paragraph``: up to a blank line, and headings of Markdown go with what follows them;
        ``heading``: from one heading of Markdown to the next; or ``file``.

    Yields
    ------
    tuple of (int, str)
        Number of the first line, and the text, with the blank lines inside it.
    """
    kept: list[tuple[int, str]] = []
    fenced = False
    for number, line in lines:
        if kept and not fenced and _begins(unit, kept, number, line):
            yield _joined(kept)
            kept = []
        kept.append((number, line))
        if unit != "line" and FENCE.match(line):
            fenced = not fenced
    if kept:
        yield _joined(kept)


def _begins(unit: Unit, kept: list[tuple[int, str]], number: int, line: str) -> bool:
    """Whether a line begins another document than the lines before it."""
    if unit == "paragraph":
        return number > kept[-1][0] + 1 and not all(HEADING.match(text) for _, text in kept)
    return unit == "line" or (unit == "heading" and HEADING.match(line) is not None)


def _joined(kept: list[tuple[int, str]]) -> tuple[int, str]:
    pieces, last = [], kept[0][0]
    for number, line in kept:
        pieces.append("\n" * (number - last) + line)
        last = number
    return kept[0][0], "".join(pieces).strip()
