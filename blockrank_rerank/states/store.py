"""Documents' states in a folder, for any number of processes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from blockrank_rerank.states.document_states import DocumentStates
from blockrank_rerank.states.group_files import (
    DAMAGE,
    GROUP_BYTES,
    GROUPS,
    Location,
    group_number,
    group_path,
    group_tensors,
    is_whole,
    open_group,
    read_document,
    text_digest,
)
from blockrank_rerank.states.manifest import (
    MANIFEST_NAME,
    changed_ns,
    check_manifest,
    create_manifest,
    is_unchanged,
    read_manifest,
    renew_manifest,
    writing,
)
from blockrank_rerank.system.files import UserPath, absolute, file_identity, placing
from blockrank_rerank.system.forks import ForkLock


class StateStore:
    """States of documents in a folder, found by their text; read by memory mapping.

    A group of documents is one safetensors file, written beside its place and moved there whole: whatever
    interrupts a writer leaves the groups before it. Many may read while one appends. Every document has a
    checksum; a damaged one is reported and counts as missing, so that preparing again repairs it.

    Parameters
    ----------
    folder : str or path-like
        An existing store, or a new or empty folder.
    fingerprint : str
        Of the model whose states these are.
    dtype : torch.dtype, optional
        Of the states, for a new store; must be an old one's if given.
    settings : mapping, optional
        What of the fingerprint can be named, for a message that says what differs.
    earlier_fingerprint : callable, optional
        Gives the one that stores of earlier versions have; without it they are refused.

    Raises
    ------
    FileNotFoundError
        For a folder that is not there, without ``dtype``.
    ValueError
        For a folder that is no store, and the store of another model or dtype.
    """

    def __init__(
        self,
        folder: UserPath,
        fingerprint: str,
        dtype: torch.dtype | None = None,
        settings: Mapping[str, Any] | None = None,
        earlier_fingerprint: Callable[[], str] = lambda: "",
    ) -> None:
        self.folder = absolute(folder, "folder")
        self._locations: dict[bytes, Location] = {}
        self._groups: dict[Path, Any] = {}
        self._files: dict[Path, Any] = {}
        self._damaged: set[Path] = set()
        self._seen: int | None = None
        self._lock = ForkLock()
        name = None if dtype is None else str(dtype).removeprefix("torch.")
        self._wanted = {"fingerprint": fingerprint, "dtype": name, "settings": json.loads(json.dumps(settings or {}))}
        self._earlier_fingerprint = cache(earlier_fingerprint)
        self._check(read_manifest(self.folder) or create_manifest(self.folder, self._wanted))
        self.refresh()

    def _check(self, manifest: Mapping[str, Any]) -> None:
        check_manifest(manifest, self._wanted, self.folder, self._earlier_fingerprint)
        self.dtype: torch.dtype = getattr(torch, manifest["dtype"])

    def refresh(self) -> None:
        """Take up groups that were appended or removed since, by this process or another.

        Raises
        ------
        ValueError
            Where another model's store has come in the place of this one.
        """
        with self._lock:
            seen = changed_ns(self.folder)
            found: dict[Path, Any] = {path: file_identity(path) for path in sorted(self.folder.glob(GROUPS))}
            # A name comes back with another file: in another store, or where all of the last group was dropped.
            same = all(found.get(path) == known for path, known in self._files.items())
            groups, locations = ({**self._groups}, {**self._locations}) if same else ({}, {})
            for path in found:
                if not same or path not in self._files:
                    self._read_index(path, groups, locations)
            # After the groups, as a store has a manifest before it has any.
            if (manifest := read_manifest(self.folder)) is not None:
                self._check(manifest)
            else:  # it is being deleted
                found, groups, locations = {}, {}, {}
            self._files, self._groups, self._locations, self._seen = found, groups, locations, seen

    def refresh_if_changed(self) -> None:
        """Refresh where a file came to the folder or left it; raises ValueError as :meth:`refresh`."""
        if not is_unchanged(self.folder, self._seen):
            self.refresh()

    def renew(self) -> None:
        """Bring a store of an earlier version up to this one, so that no earlier release writes to it."""
        renew_manifest(self.folder, self._wanted)

    def set_damaged_aside(self) -> None:
        """Rename groups that cannot be read, for whoever prepares their documents again."""
        with writing(self.folder):
            damaged, self._damaged = self._damaged, set()
            for path in damaged:
                # Another process may have done so, and have written a new group under the name.
                with suppress(FileNotFoundError):
                    if not is_whole(path):
                        path.rename(path.with_suffix(".damaged"))

    def get(self, text: str) -> DocumentStates | None:
        """Read the states of a text; nothing where they are missing or damaged, the latter with a warning."""
        return self.get_block(text_digest(text))

    def get_block(self, digest: bytes) -> DocumentStates | None:
        """As :meth:`get`, by the digest of the text."""
        with self._lock:
            location = self._locations.get(digest)
            group = None if location is None else self._groups[location.group]
        return None if location is None else self._read(group, location)

    def location(self, digest: bytes) -> Location | None:
        """Where the states of a text with this digest are; nothing where they are not here."""
        return self._locations.get(digest)

    def __contains__(self, text: str) -> bool:
        return self.location(text_digest(text)) is not None

    def holds_whole(self, text: str) -> bool:
        """Whether a text is here as one block that was not cut."""
        location = self.location(text_digest(text))
        return location is not None and not location.truncated

    def __len__(self) -> int:
        return len(self._locations)

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        found = map(file_identity, self.folder.glob(GROUPS))  # another process may have dropped one by now
        return sum(identity.nbytes for identity in found if identity is not None)

    def append(self, texts: Sequence[str], states: Sequence[DocumentStates]) -> int:
        """Write one group, whole or not at all, of those that another process has not written meanwhile: how many."""
        with writing(self.folder):
            self.refresh()
            new = [index for index, text in enumerate(texts) if text not in self]
            if not new:
                return 0
            self._write([text_digest(texts[index]) for index in new], [states[index] for index in new])
        self.refresh()
        return len(new)

    def drop(self, digests: Collection[bytes]) -> None:
        """Write groups that hold states of these digests anew without them, and small ones as few large ones.

        The caller holds the store's lock. Whoever has an old group open reads on in it. What is damaged is left out,
        with a warning.
        """
        self.refresh()
        small = [path for path, known in self._files.items() if known is not None and known.nbytes < GROUP_BYTES // 2]
        old: list[Path] = []
        whole: dict[bytes, DocumentStates] = {}
        for path, group in [*self._groups.items()]:
            _, locations = open_group(path) or (None, {})
            kept = [digest for digest in locations if digest not in digests and self._is_of(path, digest)]
            if len(kept) == len(locations) and (path not in small or len(small) < 2):
                continue
            found = ((digest, self._read(group, locations[digest])) for digest in kept)
            whole |= {digest: states for digest, states in found if states is not None}
            old.append(path)
            if sum(states.nbytes for states in whole.values()) >= GROUP_BYTES:
                self._replace(old, whole)
                old, whole = [], {}
        self._replace(old, whole)
        self.refresh()

    def _replace(self, old: Sequence[Path], states: Mapping[bytes, DocumentStates]) -> None:
        """Put one group with these states in the place of old ones."""
        if states:
            self._write([*states], [*states.values()])
        for path in old:
            path.unlink()

    def _read(self, group: Any, location: Location) -> DocumentStates | None:
        try:
            return read_document(group, location)
        except DAMAGE as error:
            self._forget(location, str(error))
            return None

    def _is_of(self, path: Path, digest: bytes) -> bool:
        """Whether a digest's states are those of this group, and not of a later one where they were prepared again."""
        location = self._locations.get(digest)
        return location is not None and location.group == path

    def _write(self, digests: Sequence[bytes], states: Sequence[DocumentStates]) -> None:
        last = max(map(group_number, self.folder.glob(GROUPS)), default=-1)
        with placing(group_path(self.folder, last + 1), self.folder / MANIFEST_NAME) as unfinished:
            save_file(group_tensors(digests, states), unfinished)

    def _read_index(self, path: Path, groups: dict[Path, Any], locations: dict[bytes, Location]) -> None:
        try:
            opened = open_group(path)
        except SafetensorError as error:
            warnings.warn(f"{path} is damaged and left out: {error}; prepare its documents again", stacklevel=3)
            self._damaged.add(path)
            return
        self._damaged.discard(path)
        if opened is not None:
            groups[path], own = opened
            # A later group holds what was prepared again.
            locations.update(own)

    def _forget(self, location: Location, fault: str) -> None:
        warnings.warn(f"a document in {location.group} is damaged ({fault}) and counts as missing", stacklevel=4)
        with self._lock:
            for digest, other in list(self._locations.items()):
                if other is location:
                    del self._locations[digest]
