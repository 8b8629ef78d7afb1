"""The documents of a store, by their ids."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

from blockrank_rerank.errors import UnknownIdsError
from blockrank_rerank.states.document_files import (
    DamagedDocumentsError,
    DocumentFile,
    Key,
    StoredDocument,
    documents_content,
    documents_paths,
    next_documents_path,
    open_documents,
)
from blockrank_rerank.states.group_files import DIGEST_BYTES, GROUPS
from blockrank_rerank.states.manifest import (
    MANIFEST_NAME,
    changed_ns,
    is_unchanged,
    no_store,
    read_manifest,
    writing,
)
from blockrank_rerank.states.store import StateStore
from blockrank_rerank.system.files import FileIdentity, UserPath, absolute, file_identity, placing
from blockrank_rerank.system.forks import ForkLock


class Place(NamedTuple):
    """Where a document is: its file, and its position there."""

    file: DocumentFile
    position: int

    @property
    def blocks(self) -> list[bytes]:
        """Digests of its blocks."""
        return [*_digests(self.file.blocks[self.position])]


FILE_DOCUMENTS = 256
"""Documents of one file at most, which is what a reader of one text opens."""


class Changes(NamedTuple):
    """What preparing did to the documents of a store: how many are new, have another text now, or were there."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0

    def plus(self, other: Changes) -> Changes:
        """Return the sums."""
        return Changes(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class StoredDocuments:
    """The documents of a store, by the ids that they were prepared with; needs no model.

    What :meth:`get` returns goes wherever documents go, and a ranker with the same ``store`` reads none of it::

        documents = StoredDocuments("states")
        ranker.rank("how long do fleas live", documents.get(["d1", "d7"]))

    An id names one text. Documents that were prepared without an id are there too, once each. The ids are read when
    they are first needed and when the folder has changed, and texts when they are asked for. Any number of threads and
    processes may use a store while others write to it.

    Parameters
    ----------
    folder : str or path-like
        Made by ``blockrank prepare`` or :meth:`BlockRankReranker.prepare_store`.

    Raises
    ------
    FileNotFoundError
        For a folder that is no store.
    ValueError
        For a store of another release.
    """

    def __init__(self, folder: UserPath) -> None:
        self.folder = absolute(folder, "folder")
        if read_manifest(self.folder) is None:
            raise no_store(self.folder)
        self._lock = ForkLock()
        self._files: dict[Path, DocumentFile | None] | None = None
        self._known: dict[Path, FileIdentity | None] = {}
        self._seen: int | None = None
        self._places: dict[Key, Place] = {}
        self._dropped: set[bytes] = set()
        self._in_order: list[Place] | None = None

    def get(self, ids: Iterable[str | int]) -> list[StoredDocument]:
        """Return the documents of ids, in their order.

        Parameters
        ----------
        ids : iterable of str or int
            Whole numbers count as their text.

        Raises
        ------
        UnknownIdsError
            A ValueError, naming those that the store does not have.
        TypeError
            For what is no list of ids.
        ValueError
            For a document that the disk has damaged.
        """
        keys = _checked_ids(ids)
        return self._read_now(lambda: self._places_of(keys))

    @property
    def ids(self) -> list[str]:
        """All ids, in the order in which they came."""
        return [key for key in [*self._current()] if isinstance(key, str)]

    def __contains__(self, identifier: object) -> bool:
        """Whether the store has a document of that id."""
        return isinstance(identifier, str | Integral) and str(identifier) in self._current()

    def __reduce__(self) -> tuple[type[StoredDocuments], tuple[Path]]:
        return StoredDocuments, (self.folder,)

    def places(self) -> Sequence[Place]:
        """Where all documents are now, in the order in which they came; the same object until something changes."""
        with self._lock:
            current = self._current()
            if self._in_order is None:
                self._in_order = [*current.values()]
            return self._in_order

    def read(self, places: Sequence[Place]) -> list[StoredDocument]:
        """Return the documents at places, in their order.

        Raises
        ------
        FileNotFoundError, DamagedDocumentsError
            As :meth:`DocumentFile.read`.
        """
        of_file: dict[DocumentFile, list[int]] = {}
        for file, position in places:
            of_file.setdefault(file, []).append(position)
        read = {
            (file, position): document
            for file, positions in of_file.items()
            for position, document in zip(positions, file.read(positions), strict=True)
        }
        return [read[place] for place in places]

    def __len__(self) -> int:
        """Number of documents, those without an id included."""
        return len(self._current())

    def __iter__(self) -> Iterator[StoredDocument]:
        """Yield all documents, read some at a time, but for those that are deleted before their turn."""
        keys = [*self._current()]
        for start in range(0, len(keys), FILE_DOCUMENTS):
            some = keys[start : start + FILE_DOCUMENTS]
            yield from self._read_now(lambda some=some: self._places_left(some))  # type: ignore[misc]

    def refresh(self) -> None:
        """Take up what was prepared or deleted since, by this process or another, which happens by itself too."""
        with self._lock:
            seen = changed_ns(self.folder)
            found = {path: file_identity(path) for path in documents_paths(self.folder)}
            # A name comes back with another file where another store has come in the place of this one.
            if self._files is None or any(found.get(path) != known for path, known in self._known.items()):
                self._files, self._known, self._places, self._dropped, self._in_order = {}, {}, {}, set(), None
            for path, identity in found.items():
                if path not in self._files:
                    self._files[path], self._known[path], self._in_order = self._opened(path), identity, None
            self._seen = seen

    def delete(self, ids: Iterable[str | int]) -> int:
        """Remove documents by id, all or, where the store does not have one of them, none; return how many.

        Their texts and states are in the folder's files until :meth:`compact`, and are not found any more.

        Raises
        ------
        UnknownIdsError, TypeError
            As :meth:`get`.
        """
        keys = [*dict.fromkeys(_checked_ids(ids))]
        with writing(self.folder):
            self.refresh()
            self._places_of(keys)
            if keys:
                self._write([], keys)
        self.refresh()
        return len(keys)

    def put(self, documents: Sequence[StoredDocument], blocks: Sequence[bytes]) -> Changes:
        """Keep documents whose states are in the store; one with a known id takes the other's place.

        Parameters
        ----------
        documents : sequence of StoredDocument
            The last one of an id counts.
        blocks : sequence of bytes
            Digests of each document's blocks, one after the other.
        """
        added = replaced = 0
        with writing(self.folder):
            self.refresh()
            new: list[tuple[StoredDocument, bytes]] = []
            latest: dict[Key, StoredDocument] = {}
            for document, digests in zip(documents, blocks, strict=True):
                key = digests if document.id is None else document.id
                before = latest[key] if key in latest else self._find(key)
                if before is None:
                    added += 1
                elif document.id is None or before == document:
                    continue
                else:
                    replaced += 1
                latest[key] = document
                new.append((document, digests))
            if new:
                self._write(new, [])
        self.refresh()
        return Changes(added, replaced, len(documents) - added - replaced)

    def unused_blocks(self) -> int:
        """Count the blocks whose documents were all replaced or deleted."""
        self._current()
        return len(self._idle_blocks())

    def compact(self) -> int:
        """Remove texts and states of documents that were replaced or deleted from the folder's files; return the bytes.

        Many small files become few large ones. No document is read again. Other processes may read and prepare
        meanwhile; what they have open goes from the disk when they look again. Whatever interrupts it leaves the
        documents as they are.

        Raises
        ------
        ValueError
            For a document, or a file of them, that the disk has damaged: prepare its documents again first.
        """
        manifest = read_manifest(self.folder)
        if manifest is None:
            raise no_store(self.folder)
        with writing(self.folder):
            before, old = _nbytes(self.folder), documents_paths(self.folder)
            self.refresh()
            if None in (self._files or {}).values():
                raise DamagedDocumentsError(f"{self.folder} has damaged documents: prepare them again, then compact")
            # First, while the files of documents still tell which blocks are nobody's.
            StateStore(self.folder, manifest["fingerprint"]).drop(self._idle_blocks())
            places = [*self._places.values()]
            # One file at least, so that numbers go on; in a store without documents none.
            for start in range(0, max(len(places), bool(old)), FILE_DOCUMENTS):
                some = places[start : start + FILE_DOCUMENTS]
                blocks = [file.blocks[position] for file, position in some]
                self._write([*zip(self.read(some), blocks, strict=True)], [])
            for path in old:  # the oldest first: a deletion must not go before what it deletes
                path.unlink()
        self.refresh()
        return before - _nbytes(self.folder)

    def set_damaged_aside(self) -> None:
        """Rename files that cannot be read, for whoever prepares their documents again."""
        self._current()
        with writing(self.folder), self._lock:
            for path in [path for path, file in (self._files or {}).items() if file is None]:
                # Another process may have done so.
                with suppress(FileNotFoundError):
                    path.rename(path.with_suffix(".damaged"))
        self.refresh()

    def _idle_blocks(self) -> set[bytes]:
        blocks = {digest for file, position in [*self._places.values()] for digest in _digests(file.blocks[position])}
        return self._dropped - blocks

    def _current(self) -> dict[Key, Place]:
        with self._lock:
            if self._files is None or not is_unchanged(self.folder, self._seen):
                self.refresh()
            return self._places

    def _opened(self, path: Path) -> DocumentFile | None:
        try:
            file = open_documents(path)
        except DamagedDocumentsError as error:
            warnings.warn(
                f"{path} is damaged and left out: {error}; its documents are missing, or what they were before: "
                "prepare them again",
                stacklevel=4,
            )
            return None
        if file is not None:
            for name in file.deleted:
                self._drop(name)
            for position, key in enumerate(file.keys):
                self._drop(key)
                self._places[key] = Place(file, position)
        return file

    def _drop(self, key: Key) -> None:
        if key in self._places:
            file, position = self._places.pop(key)
            self._dropped.update(_digests(file.blocks[position]))

    def _read_now(self, places: Callable[[], Sequence[Place]]) -> list[StoredDocument]:
        """Read documents at places, and once more where another process has moved them in this moment."""
        try:
            return self.read(places())
        except (UnknownIdsError, FileNotFoundError):
            self.refresh()
        except DamagedDocumentsError:
            self._read_all_indexes()  # another store may lie here by now, whose files have the same names
        return self.read(places())

    def _read_all_indexes(self) -> None:
        with self._lock:
            self._files = None
            self.refresh()

    def _places_left(self, keys: Sequence[Key]) -> list[Place]:
        """Where those documents of keys are that are there."""
        places = self._current()
        return [places[key] for key in keys if key in places]

    def _places_of(self, keys: Sequence[str]) -> list[Place]:
        """Where the documents of ids are; raises UnknownIdsError."""
        places = self._current()
        found = [places.get(key) for key in keys]
        if None in found:
            unknown = [key for key, place in zip(keys, found, strict=True) if place is None]
            raise UnknownIdsError(unknown, len(keys), str(self.folder), any(isinstance(key, str) for key in [*places]))
        return [place for place in found if place is not None]

    def _find(self, key: Key) -> StoredDocument | None:
        """The document of a key; nothing where it is not there, or damaged."""
        place = self._places.get(key)
        try:
            return None if place is None else self.read([place])[0]
        except DamagedDocumentsError as error:
            warnings.warn(f"{error}: it counts as missing", stacklevel=4)
            return None

    def _write(self, documents: Sequence[tuple[StoredDocument, bytes]], deleted: Sequence[str]) -> None:
        content = documents_content(documents, deleted)
        with placing(next_documents_path(self.folder), self.folder / MANIFEST_NAME) as name, name.open("xb") as file:
            file.writelines(content)


def _nbytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in [*folder.glob(GROUPS), *documents_paths(folder)])


def _digests(blocks: bytes) -> Iterator[bytes]:
    return (blocks[start : start + DIGEST_BYTES] for start in range(0, len(blocks), DIGEST_BYTES))


def _checked_ids(ids: Iterable[str | int]) -> list[str]:
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise TypeError(f"ids must be a list of ids, got {type(ids).__name__}")
    checked = []
    for index, name in enumerate(ids):
        if not isinstance(name, str | Integral) or isinstance(name, bool):
            raise TypeError(f"ids[{index}] must be a str or a whole number, got {type(name).__name__}")
        checked.append(str(name))
    return checked
