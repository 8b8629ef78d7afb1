"""What commands print, on terminals of any width and encoding."""

from __future__ import annotations

import io
import json
import sys
import warnings
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

# Longest prefix of a document that is looked at for one table row.
SHOWN_CHARACTERS = 1000


def harden_streams() -> None:
    """Let no character crash the output.

    Lone surrogates cannot be encoded at all, and an ASCII terminal lacks nearly everything.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def literal(text: str) -> Text:
    """User text for a table cell: one line, no markup, no terminal escapes."""
    shown = text[:SHOWN_CHARACTERS]
    return Text("".join(c if _is_harmless(c) else " " for c in " ".join(shown.split())))


def print_table(table: Any) -> None:
    """Print a rich renderable on stdout."""
    Console(highlight=False).print(table)


def print_line(text: str) -> None:
    """Print one literal line on stdout."""
    print(text)


def print_json(value: Any) -> None:
    """Print JSON on stdout, readable where the terminal can show it."""
    # Under UTF-8 only lone surrogates are escaped on output, as \udXXX, which is how JSON escapes them.
    print(json.dumps(value, indent=2, ensure_ascii=not is_unicode(sys.stdout), allow_nan=False))


def print_note(text: str) -> None:
    """Print one line on stderr."""
    print(" ".join(text.split()), file=sys.stderr)


def print_error(text: str) -> None:
    """Print an error line on stderr."""
    print_note(f"blockrank: error: {text}")


def show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Print a Python warning as one line; takes the place of `warnings.showwarning`."""
    print_note(f"blockrank: warning: {message}")


def show_warnings_as_lines() -> None:
    """Print warnings in one line each, without a line of source code."""
    warnings.showwarning = show_warning


def is_unicode(stream: TextIO) -> bool:
    """Whether a stream can show any character."""
    return (getattr(stream, "encoding", None) or "").lower().startswith("utf")


def _is_harmless(character: str) -> bool:
    # C0 and C1 controls: among them ESC and CSI, with which a document could repaint the terminal.
    return not (ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0)
