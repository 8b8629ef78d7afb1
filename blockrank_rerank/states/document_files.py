"""One file of a store's documents: an index of their ids, and their texts, one to a line."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from blockrank_rerank.system.files import is_there

_NAME = re.compile(r"documents-(\d+)\.(jsonl|damaged)")
"""Names of a store's files of documents, those that were set aside among them; a copy by hand has another."""

MAX_ID_CHARACTERS = 1024
"""Code points of an id at most: it is compared and shown as a whole, and a text is no id."""

_DAMAGE = (ValueError, KeyError, IndexError, TypeError, RecursionError)
"""What reading a damaged file raises: any of its bytes may be wrong."""


@dataclass(frozen=True)
class StoredDocument:
    """One document of a store, accepted wherever documents are.

    Attributes
    ----------
    id : str or None
        As it was prepared; whole numbers became text.
    text, title : str, str or None
        As they were given.
    """

    id: str | None
    text: str
    title: str | None = None


Key = str | bytes
"""What a document is found by: its id, or the digests of its blocks where it has none."""


class DamagedDocumentsError(ValueError):
    """A file of documents, or a line of it, is not what was written."""


@dataclass(frozen=True, eq=False)
class DocumentFile:
    """A file's index; the documents themselves are read where they are asked for.

    Attributes
    ----------
    path : Path
        Of the file, which never changes once it is there.
    deleted : list of str
        Ids that files before this one may have, and the store has no more.
    keys : list of str or bytes
        Of the documents.
    blocks : list of bytes
        Digests of each document's blocks, under which their states are found, one after the other.
    """

    path: Path
    deleted: list[str]
    keys: list[Key]
    blocks: list[bytes]
    _bounds: list[tuple[int, int]]
    _checksums: list[int]

    def read(self, positions: Iterable[int]) -> Iterator[StoredDocument]:
        """Yield the documents at positions of ``keys``.

        Raises
        ------
        FileNotFoundError
            Where another process has set the file aside.
        DamagedDocumentsError
            For a document that is not what was written.
        """
        with self.path.open("rb") as file:
            for position in positions:
                start, end = self._bounds[position]
                file.seek(start)
                line = file.read(end - start)
                if zlib.crc32(line) != self._checksums[position]:
                    raise DamagedDocumentsError(f"a document in {self.path} is damaged; prepare it again")
                yield StoredDocument(**json.loads(line))


def open_documents(path: Path) -> DocumentFile | None:
    """Read the index of a file of documents; nothing where another process has set the file aside.

    Raises
    ------
    PermissionError
        For a file that this user may not read.
    DamagedDocumentsError
        For a damaged one.
    """
    try:
        return _open(path) if is_there(path) else None
    except FileNotFoundError:
        return None
    except _DAMAGE as error:
        raise DamagedDocumentsError(f"its index cannot be read ({type(error).__name__}: {error})") from error


def _open(path: Path) -> DocumentFile:
    with path.open("rb") as file:
        checksum, line = file.readline(), file.readline()
        start = file.tell()
    if zlib.crc32(line) != int(checksum):
        raise ValueError("the checksum does not match")
    index = json.loads(line)
    blocks = [bytes.fromhex(digests) for digests in index["blocks"]]
    keys = [digests if name is None else name for name, digests in zip(index["ids"], blocks, strict=True)]
    ends = [start + end for end in index["ends"]]
    bounds = [*zip([start, *ends], ends, strict=False)]
    return DocumentFile(path, index["deleted"], keys, blocks, bounds, index["checksums"])


def documents_content(
    documents: Sequence[tuple[StoredDocument, bytes]], deleted: Sequence[str] = ()
) -> Iterator[bytes]:
    """Yield the lines of a file of documents with the digests of their blocks: checksum, index, one document each."""
    lines = [_line({"id": it.id, "title": it.title, "text": it.text}) for it, _ in documents]
    index = _line(
        {
            "deleted": deleted,
            "ids": [document.id for document, _ in documents],
            "blocks": [digests.hex() for _, digests in documents],
            "ends": [*accumulate(map(len, lines))],
            "checksums": [*map(zlib.crc32, lines)],
        }
    )
    return iter([f"{zlib.crc32(index)}\n".encode(), index, *lines])


def _line(value: Any) -> bytes:
    # Lone surrogates are text too, and two of them in a row would come back as one character if they were escaped.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def documents_paths(folder: Path) -> list[Path]:
    """The files of a store's documents, oldest first."""
    return sorted(path for path, name in _named(folder) if name[2] == "jsonl")


def next_documents_path(folder: Path) -> Path:
    """A file of documents whose name none had before; whoever asks holds the store's lock."""
    # Not even one that was set aside: a reader may have its index.
    last = max((int(name[1]) for _, name in _named(folder)), default=-1)
    return folder / f"documents-{last + 1:06d}.jsonl"


def _named(folder: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in folder.glob("documents-*"):
        if name := _NAME.fullmatch(path.name):
            yield path, name
