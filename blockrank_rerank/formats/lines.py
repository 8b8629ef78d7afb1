"""Numbered lines of UTF-8 files."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path

from blockrank_rerank.errors import DataError

GZIP = b"\x1f\x8b"
"""What every gzip file begins with; no UTF-8 text does."""


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read the non-blank lines of a UTF-8 file.

    Parameters
    ----------
    path : Path
        File to read; a byte order mark and CRLF line ends are accepted.

    Yields
    ------
    tuple of (int, str)
        1-based line number, and the line without its end.

    Raises
    ------
    DataError
        If a line is not UTF-8.
    """
    with path.open("rb") as stream:
        yield from decode_lines(stream, str(path))


def decode_lines(stream: Iterable[bytes], name: str) -> Iterator[tuple[int, str]]:
    """Read the non-blank lines of a binary stream, as `read_lines` does those of a file."""
    # str.splitlines would also split at U+2028 and form feeds, which are legal inside a JSON string.
    for number, raw in enumerate(stream, start=1):
        line = decode(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw, name, number)
        if line.strip():
            yield number, line.rstrip("\r\n")


def decode(raw: bytes, name: str, number: int) -> str:
    """Decode one line.

    Raises
    ------
    DataError
        Naming the first byte that is no UTF-8.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if raw.startswith(GZIP):
            raise DataError("this is a gzip file; decompress it first, for instance with gunzip", name) from None
        byte = f"byte 0x{raw[error.start]:02x} at position {error.start + 1}"
        raise DataError(f"expected UTF-8 text, got {byte}; convert the file to UTF-8", name, number) from None
