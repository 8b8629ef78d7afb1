"""What reaches a terminal: control characters of texts, names and paths are spelled out on the way."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""C0 and C1 controls but tabs and line ends: among them ESC and CSI, with which a text could repaint the terminal."""


def printable(text: str) -> str:
    r"""Spell out control characters, as ``\x1b``; tabs and line ends stay."""
    return CONTROLS.sub(lambda control: f"\\x{ord(control[0]):02x}", text)


class GuardedConsole(Console):
    """A rich console that spells out control characters of what it shows, and draws with its own."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Give the pieces of which something is made."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def print_line(text: str, *, error: bool = False) -> None:
    """Print one literal line on stdout or stderr, at once."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)
