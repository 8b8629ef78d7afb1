"""The files whose documents a command reads."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from blockrank_rerank.errors import DocumentError
from blockrank_rerank.formats import DataError, FileDocument
from blockrank_rerank.formats.documents import STDIN


def files_or_pipe(files: list[Path] | None) -> list[Path] | None:
    """The files that were named, or else standard input where it is a pipe or a file."""
    return [STDIN] if not files and _is_piped() else files


@contextmanager
def naming_documents(documents: Sequence[FileDocument]) -> Iterator[None]:
    """Let an error about a document name it as its file does."""
    try:
        yield
    except DocumentError as error:
        document = documents[error.index]
        raise DataError(f"{document.id or document.source} {error.reason}") from error


def _is_piped() -> bool:
    """Whether standard input is a pipe or a file, and neither a terminal nor closed."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)
