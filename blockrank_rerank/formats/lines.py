"""Numbered lines of UTF-8 files."""

from __future__ import annotations

import codecs
import gzip
import os
import select
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from blockrank_rerank.errors import DataError
from blockrank_rerank.system.files import STREAMS, check_readable

GZIP = b"\x1f\x8b"
"""What every gzip file begins with; no UTF-8 text does."""


PATIENCE = 3.0
"""Seconds in which a named pipe must come to have a writer."""


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read the non-blank lines of a UTF-8 file.

    Parameters
    ----------
    path : Path
        File to read; a byte order mark and CRLF line ends are accepted. Pipes are read once they have a writer,
        and files whose names end in ``.gz`` are decompressed.

    Yields
    ------
    tuple of (int, str)
        1-based line number, and the line without its end.

    Raises
    ------
    IsADirectoryError
        If it is a folder.
    DataError
        If a line is not UTF-8, or if it is a socket, a device, a pipe that nothing writes into, or no whole gzip file.
    """
    check_readable(path, "lines", named_pipes=True)
    if path.is_fifo() and not str(path).startswith(STREAMS):
        yield from decode_lines(_of_named_pipe(path), str(path))
        return
    yield from decode_lines(raw_lines(path), str(path))


def raw_lines(path: Path) -> Iterator[bytes]:
    """Read the lines of a file as they are, decompressed where its name ends in ``.gz``.

    Raises
    ------
    DataError
        If it is no whole gzip file, where its name says so.
    """
    if path.suffix.lower() != ".gz":
        with path.open("rb") as stream:
            yield from stream
        return
    try:
        with gzip.open(path, "rb") as stream:
            yield from stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"expected a whole gzip file, as the name says: {error}", str(path)) from None


def _of_named_pipe(path: Path) -> Iterator[bytes]:
    """Read the lines of a pipe, whose opening would wait for ever where nothing writes into it."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
        start = b""
        if not select.select([stream], [], [], PATIENCE)[0]:
            try:
                start = os.read(stream.fileno(), 1)
            except BlockingIOError:
                pass  # a writer that takes its time
            else:
                if not start:
                    raise DataError("nothing writes into this pipe; write its content to a file first", str(path))
        os.set_blocking(stream.fileno(), True)
        yield start + stream.readline()
        yield from stream


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
