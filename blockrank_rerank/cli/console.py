"""What commands print, on terminals of any width and encoding: the one door through which text leaves the process."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from rich.text import Text

from blockrank_rerank.ranking.terminal import CONTROLS, GuardedConsole, printable
from blockrank_rerank.ranking.terminal import print_line as print_line

# Longest prefix of a document that is looked at for one table row.
SHOWN_CHARACTERS = 1000


class GuardedStream:
    """A text stream on which control characters are spelled out, whoever writes them.

    Parameters
    ----------
    stream : TextIO
        Where the text goes. Everything but writing is its own.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        # Rich draws with escapes, and writes here instead; what it shows of texts is filtered by the console.
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Write a text, and return its length."""
        if "\r" in text:
            # Bars of other libraries, such as those of downloads, go back to the start of their line.
            lines = map(printable, text.replace("\r\n", "\n").split("\r"))
            self._stream.write(("\r" if self._stream.isatty() else "\n").join(lines))
        else:
            self._stream.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Return what the stream has."""
        return getattr(self._stream, name)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Let no control character leave on stdout and stderr while a command runs."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        stream if isinstance(stream, GuardedStream) else GuardedStream(stream) for stream in before
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def harden_streams() -> None:
    """Let no character crash the output, nor a stream that whoever started the process has closed.

    Lone surrogates cannot be encoded at all, and an ASCII terminal lacks nearly everything.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # what is printed then goes nowhere, as in Python itself
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def literal(text: str, most: int | None = SHOWN_CHARACTERS) -> Text:
    """User text for a table cell: one line, no markup, no terminal escapes; all of it where ``most`` is None."""
    shown = text[:most]
    return Text(CONTROLS.sub(" ", " ".join(shown.split())))


def print_table(table: Any) -> None:
    """Print a rich renderable on stdout."""
    GuardedConsole(highlight=False).print(table)


def print_json(value: Any) -> None:
    """Print JSON on stdout, readable where the terminal can show it."""
    # Under UTF-8 only lone surrogates are escaped on output, as \udXXX, which is how JSON escapes them.
    text = json.dumps(value, indent=2, ensure_ascii=not is_unicode(sys.stdout), allow_nan=False)
    # JSON itself lets DEL and C1 controls stand.
    print(CONTROLS.sub(lambda control: f"\\u{ord(control[0]):04x}", text))


def print_note(text: str) -> None:
    """Print one line on stderr."""
    print_line(" ".join(text.split()), error=True)


def print_error(text: str) -> None:
    """Print an error line on stderr."""
    print_note(f"blockrank: error: {text}")


def show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Print a Python warning as one line; takes the place of `warnings.showwarning`."""
    print_note(f"blockrank: warning: {message}")


def show_warning_unless_foreign(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Print a Python warning as one line, but none that an installed library of other people gives."""
    # The place that a warning names is its caller's, so that ours may name anybody's: who gives it is what counts.
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") == "warnings":
        frame = frame.f_back
    package = "" if frame is None else str(frame.f_globals.get("__name__", "")).partition(".")[0]
    installed = frame is not None and {"site-packages", "dist-packages"} & {*Path(frame.f_code.co_filename).parts}
    if not installed or package.startswith("blockrank_"):
        show_warning(message, category)


@contextmanager
def own_lines_only(everything: bool) -> Iterator[None]:
    """Print warnings of ours, in one line each, and neither warnings nor log lines of other libraries.

    Their errors are logged still.

    Parameters
    ----------
    everything : bool
        Whether other libraries are heard too, as for finding a fault.
    """
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.showwarning = show_warning if everything else show_warning_unless_foreign
        if not everything:
            logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def is_unicode(stream: TextIO) -> bool:
    """Whether a stream can show any character."""
    return (getattr(stream, "encoding", None) or "").lower().startswith("utf")
