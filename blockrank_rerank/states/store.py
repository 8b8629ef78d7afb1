from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import warnings
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from blockrank_rerank.files import replacing, share_like, system_errors
from blockrank_rerank.states.digest import tensor_bytes
from blockrank_rerank.states.document_states import DTYPES, DocumentStates

MANIFEST_NAME = "store.json"
FORMAT_VERSION = 4
LOCK_NAME = "lock"
_BEGINNING = re.compile(rf"{LOCK_NAME}|{re.escape(MANIFEST_NAME)}|\.{re.escape(MANIFEST_NAME)}\.\d+\.tmp")
"""Names of what the beginning of a store leaves, also one that was interrupted."""

_GROUPS = "group-[0-9]*.safetensors"
_DTYPES = {str(dtype).removeprefix("torch.") for dtype in DTYPES}
_INDEX = {"digests", "offsets", "truncated", "checksums"}
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class _Place:
    """Where one document's states are: ``[start, end)`` of the tokens of a group's file."""

    group: Path
    start: int
    end: int
    truncated: bool
    checksum: int


class StateStore:
    """States of documents in a folder, found by their text; read by memory mapping.

    A group of documents is one safetensors file, written beside its place and moved there whole: whatever
    interrupts a writer leaves the groups before it. Many may read while one appends. Every document has a
    checksum; a damaged one is reported and counts as missing, so that preparing again repairs it.

    Parameters
    ----------
    folder : str or Path
        An existing store, or a new or empty folder.
    fingerprint : str
        Of the model whose states these are.
    dtype : torch.dtype, optional
        Of the states, for a new store; must be an old one's if given.
    settings : mapping, optional
        What of the fingerprint can be named, for a message that says what differs.

    Raises
    ------
    FileNotFoundError
        For a folder that is not there, without ``dtype``.
    ValueError
        For a folder that is no store, and the store of another model or dtype.
    """

    def __init__(
        self,
        folder: str | Path,
        fingerprint: str,
        dtype: torch.dtype | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._places: dict[bytes, _Place] = {}
        self._groups: dict[Path, Any] = {}
        self._damaged: set[Path] = set()
        self._lock = threading.Lock()
        name = None if dtype is None else str(dtype).removeprefix("torch.")
        own = {"fingerprint": fingerprint, "dtype": name, "settings": json.loads(json.dumps(settings or {}))}
        manifest = self._manifest() or self._created(own)
        _check_manifest(manifest, own, self.folder)
        self.dtype: torch.dtype = getattr(torch, manifest["dtype"])
        self.refresh()

    def refresh(self) -> None:
        """Take up groups that were appended since, by this process or another."""
        for path in sorted(self.folder.glob(_GROUPS)):
            if path not in self._groups and path not in self._damaged:
                self._read_index(path)

    def set_damaged_aside(self) -> None:
        """Rename groups that cannot be read, for whoever prepares their documents again."""
        with FileLock(self.folder / LOCK_NAME):
            damaged, self._damaged = self._damaged, set()
            for path in damaged:
                # Another process may have done so, and have written a new group under the name.
                with suppress(FileNotFoundError):
                    if not _is_whole(path):
                        path.rename(path.with_suffix(".damaged"))

    def get(self, text: str) -> DocumentStates | None:
        """States of a text, or nothing where they are missing or damaged; the latter with a warning."""
        place = self._places.get(_digest(text))
        if place is None:
            return None
        try:
            ids, rows = self._read(place)
            fault = None if _checksum(place.truncated, ids, rows) == place.checksum else "its checksum does not match"
        except (SafetensorError, KeyError) as error:  # a name may be damaged too
            fault = str(error)
        if fault is not None:
            self._forget(place, fault)
            return None
        return DocumentStates(tuple(ids.tolist()), place.truncated, rows)

    def _read(self, place: _Place) -> tuple[Tensor, dict[str, Tensor]]:
        group = self._groups[place.group]
        read = {name: group.get_slice(name)[place.start : place.end] for name in {*group.keys()} - _INDEX}
        return read.pop("ids"), read

    def __contains__(self, text: str) -> bool:
        return _digest(text) in self._places

    def holds_whole(self, text: str) -> bool:
        """Whether a text is here as one block that was not cut."""
        place = self._places.get(_digest(text))
        return place is not None and not place.truncated

    def __len__(self) -> int:
        return len(self._places)

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.glob(_GROUPS))

    def append(self, texts: Sequence[str], states: Sequence[DocumentStates]) -> int:
        """Write one group, whole or not at all, of those that another process has not written meanwhile: how many."""
        with FileLock(self.folder / LOCK_NAME):
            self.refresh()
            new = [place for place, text in enumerate(texts) if text not in self]
            if not new:
                return 0
            tensors = _group_tensors([texts[place] for place in new], [states[place] for place in new])
            last = max((int(path.stem.rpartition("-")[2]) for path in self.folder.glob(_GROUPS)), default=-1)
            path = self.folder / f"group-{last + 1:06d}.safetensors"
            unfinished = path.with_suffix(".unfinished")
            try:
                with system_errors(self.folder):
                    save_file(tensors, unfinished)
                with unfinished.open("rb") as file:
                    os.fsync(file.fileno())
                share_like(unfinished, self.folder / MANIFEST_NAME)
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
        self.refresh()
        return len(new)

    def _manifest(self) -> dict[str, Any] | None:
        path = self.folder / MANIFEST_NAME
        if not path.exists():
            return None
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); delete the folder and prepare again") from error
        if not isinstance(manifest, Mapping) or manifest.get("version") != FORMAT_VERSION:
            raise ValueError(f"{path} is of another release of blockrank-rerank; prepare into a new folder")
        if not isinstance(manifest.get("fingerprint"), str) or str(manifest.get("dtype")) not in _DTYPES:
            raise ValueError(f"{path} is damaged (no fingerprint or dtype); delete the folder and prepare again")
        return dict(manifest)

    def _created(self, own: dict[str, Any]) -> dict[str, Any]:
        """The manifest of a new store; several processes may begin one at once, and the first one decides."""
        if own["dtype"] is None:
            raise FileNotFoundError(f"{self.folder} holds no prepared documents: make them with 'blockrank prepare'")
        fault = self._why_it_cannot_begin()
        if fault:
            # Another process may have begun it meanwhile.
            found = self._manifest()
            if found is None:
                raise ValueError(fault)
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / LOCK_NAME):
            found = self._manifest()
            if found is None:
                found = {"version": FORMAT_VERSION} | own
                with replacing(self.folder / MANIFEST_NAME) as file:
                    file.write(json.dumps(found) + "\n")
        return found

    def _why_it_cannot_begin(self) -> str | None:
        if any(self.folder.glob(_GROUPS)):
            return f"{self.folder} has lost its {MANIFEST_NAME}; delete the folder and prepare again"
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        if (self.folder.exists() and not self.folder.is_dir()) or not all(map(_BEGINNING.fullmatch, names)):
            return f"{self.folder} is neither a store of prepared documents nor an empty folder"
        return None

    def _read_index(self, path: Path) -> None:
        try:
            index = _index(path)
        except SafetensorError as error:
            warnings.warn(f"{path} is damaged and left out: {error}; prepare its documents again", stacklevel=3)
            self._damaged.add(path)
            return
        if index is None:
            return
        group, digests, offsets, truncated, checksums = index
        places = zip(
            map(bytes, digests.tolist()),
            pairwise(offsets.tolist()),
            truncated.tolist(),
            checksums.tolist(),
            strict=True,
        )
        with self._lock:
            self._groups[path] = group
            for digest, (start, end), cut, checksum in places:
                # A later group holds what was prepared again.
                self._places[digest] = _Place(path, start, end, bool(cut), checksum)

    def _forget(self, place: _Place, fault: str) -> None:
        warnings.warn(f"a document in {place.group} is damaged ({fault}) and counts as missing", stacklevel=3)
        with self._lock:
            for digest, other in list(self._places.items()):
                if other is place:
                    del self._places[digest]


def _index(path: Path) -> tuple[Any, Tensor, Tensor, Tensor, Tensor] | None:
    """A group and its index; nothing where another process has set it aside."""
    if not path.exists():
        return None
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{path} may not be read by this user; change its permissions")
    group = safe_open(path, framework="pt")
    digests, offsets, truncated, checksums = (
        group.get_tensor(name) for name in ("digests", "offsets", "truncated", "checksums")
    )
    return group, digests, offsets, truncated, checksums


def _is_whole(path: Path) -> bool:
    try:
        _index(path)
    except SafetensorError:
        return False
    return True


def _check_manifest(manifest: Mapping[str, Any], own: Mapping[str, Any], folder: Path) -> None:
    if manifest["fingerprint"] != own["fingerprint"]:
        theirs = manifest.get("settings", {})
        differing = [name for name, value in own["settings"].items() if name in theirs and theirs[name] != value]
        what = ", ".join(f"{name} {theirs[name]!r} and not {own['settings'][name]!r}" for name in differing)
        raise ValueError(
            f"{folder} was prepared by another model, revision, dtype or config than this ranker's"
            f"{': ' + what if what else ''}; use that one, or prepare into a new folder"
        )
    if own["dtype"] is not None and manifest["dtype"] != own["dtype"]:
        raise ValueError(f"{folder} holds states in {manifest['dtype']}, not {own['dtype']}; prepare into a new folder")


def _group_tensors(texts: Sequence[str], states: Sequence[DocumentStates]) -> dict[str, Tensor]:
    ids = [torch.tensor(one.ids, dtype=torch.int32) for one in states]
    checksums = [_checksum(one.truncated, own, one.tensors) for own, one in zip(ids, states, strict=True)]
    lengths = torch.tensor([len(one.ids) for one in states])
    return {
        "digests": torch.tensor([list(_digest(text)) for text in texts], dtype=torch.uint8),
        "offsets": torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        "truncated": torch.tensor([one.truncated for one in states], dtype=torch.uint8),
        "checksums": torch.tensor(checksums, dtype=torch.int64),
        "ids": torch.cat(ids),
    } | {name: torch.cat([one.tensors[name] for one in states]).cpu() for name in states[0].tensors}


def _checksum(truncated: bool, ids: Tensor, tensors: Mapping[str, Tensor]) -> int:
    value = int(truncated)
    for name, tensor in sorted({"ids": ids, **tensors}.items()):
        # The file's header says what the bytes mean, and may be damaged too.
        for part in tensor_bytes(name, tensor):
            value = zlib.crc32(part, value)
    return value


def _digest(text: str) -> bytes:
    # Lone surrogates are text too.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
