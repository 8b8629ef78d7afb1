"""What a store says about itself: the model, the dtype and the settings that its states belong to."""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from blockrank_rerank.states.document_states import DTYPES
from blockrank_rerank.states.group_files import GROUPS
from blockrank_rerank.system.files import check_lock, check_readable, replacing, sync_folder
from blockrank_rerank.system.forks import unforked

MANIFEST_NAME = "store.json"
FORMAT_VERSION = 6
EARLIER_VERSIONS = (4, 5)
"""Are read, and become this one when they are prepared again. Their fingerprint is of the whole config and all weights,
and 4 holds states without documents."""
LOCK_NAME = "lock"
LONGEST_TICK_NS = 3_000_000_000
"""Of a file system's clock, and a little more: FAT's tick takes 2 seconds."""
LONG_WAIT_S = 2.0
"""For another process that writes, before it is said."""

_BEGINNING = re.compile(rf"{LOCK_NAME}|{re.escape(MANIFEST_NAME)}|\.{re.escape(MANIFEST_NAME)}\.\w+\.tmp")
"""Names of what the beginning of a store leaves, also one that was interrupted."""

_DTYPES = {str(dtype).removeprefix("torch.") for dtype in DTYPES}


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read the manifest of a store; nothing where there is none.

    Raises
    ------
    ValueError
        For one that is damaged, or of another release.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        return None
    check_readable(path, "a store's settings")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete the folder and prepare again") from error
    if not isinstance(manifest, Mapping) or manifest.get("version") not in (FORMAT_VERSION, *EARLIER_VERSIONS):
        raise ValueError(f"{path} is of another release of blockrank-rerank; prepare into a new folder")
    if not isinstance(manifest.get("fingerprint"), str) or str(manifest.get("dtype")) not in _DTYPES:
        raise ValueError(f"{path} is damaged (no fingerprint or dtype); delete the folder and prepare again")
    return dict(manifest)


def create_manifest(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Begin a store, and return its manifest; several processes may do so at once, and the first one decides.

    Raises
    ------
    FileNotFoundError
        Where no dtype is wanted: a store that is only read must be there.
    ValueError
        For a folder of something else.
    """
    if wanted["dtype"] is None:
        raise no_store(folder)
    fault = _why_it_cannot_begin(folder)
    if fault:
        # Another process may have begun it meanwhile.
        manifest = read_manifest(folder)
        if manifest is None:
            raise ValueError(fault)
        return manifest
    folder.mkdir(parents=True, exist_ok=True)
    sync_folder(folder.parent)
    with writing(folder):
        manifest = read_manifest(folder)
        if manifest is None:
            manifest = {**wanted, "version": FORMAT_VERSION}
            _write(manifest, folder)
    return manifest


def renew_manifest(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Give a store of an earlier version, whose states are known to be those wanted, the manifest of this one."""
    with writing(folder):
        manifest = read_manifest(folder)
        if manifest is not None and manifest["version"] != FORMAT_VERSION:
            renewed = {name: wanted[name] for name in ("fingerprint", "settings")}
            _write({**manifest, **renewed, "version": FORMAT_VERSION}, folder)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the lock of a store, which one thread of one process has at a time.

    Raises
    ------
    ValueError
        For a lock that is a link.
    """
    lock = FileLock(check_lock(folder / LOCK_NAME))
    with unforked(), _acquired(lock, folder):
        yield


def _acquired(lock: BaseFileLock, folder: Path) -> AbstractContextManager[BaseFileLock]:
    """Acquire a store's lock, and warn where that takes long: another process may rewrite gigabytes."""
    try:
        return lock.acquire(timeout=LONG_WAIT_S)
    except Timeout:
        warnings.warn(
            f"another process is writing to the store {folder}: waiting until it has finished",
            stacklevel=5,  # whoever writes
        )
        return lock.acquire()


def changed_ns(folder: Path) -> int | None:
    """When a file last came to a folder or left it; nothing where the folder is gone, or the next may leave no trace.

    Clocks of file systems tick every few milliseconds, some every two seconds, and what comes in the same tick as the
    last file does not change the folder's time.
    """
    with suppress(OSError):
        changed = folder.stat().st_mtime_ns
        return changed if time.time_ns() - changed > LONGEST_TICK_NS else None
    return None


def is_unchanged(folder: Path, seen: int | None) -> bool:
    """Whether nothing came to a folder or left it since :func:`changed_ns` said what was ``seen``."""
    return seen is not None and seen == changed_ns(folder)


def no_store(folder: Path) -> FileNotFoundError:
    """The error of a folder that is no store, where there must be one."""
    return FileNotFoundError(f"{folder} holds no prepared documents: make them with 'blockrank prepare'")


def check_manifest(
    manifest: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path, earlier_fingerprint: Callable[[], str]
) -> None:
    """Refuse the store of another model or dtype than is wanted; raises ValueError that says what differs."""
    is_earlier = manifest["version"] != FORMAT_VERSION
    if manifest["fingerprint"] != (earlier_fingerprint() if is_earlier else wanted["fingerprint"]):
        theirs = manifest.get("settings", {})
        differing = [name for name, value in wanted["settings"].items() if name in theirs and theirs[name] != value]
        what = ", ".join(f"{name} {theirs[name]!r} and not {wanted['settings'][name]!r}" for name in differing)
        if is_earlier and not what:
            what = (
                "it is of an earlier release, which told apart settings of the query too; 'blockrank prepare' with the "
                "settings it was made with brings it up to date"
            )
        raise ValueError(
            f"{folder} was prepared by another model, revision, dtype or config than this ranker's"
            f"{': ' + what if what else ''}; use that one, or prepare into a new folder"
        )
    if wanted["dtype"] is not None and manifest["dtype"] != wanted["dtype"]:
        raise ValueError(
            f"{folder} holds states in {manifest['dtype']}, not {wanted['dtype']}; prepare into a new folder"
        )


def _write(manifest: Mapping[str, Any], folder: Path) -> None:
    with replacing(folder / MANIFEST_NAME) as file:
        file.write(json.dumps(manifest) + "\n")


def _why_it_cannot_begin(folder: Path) -> str | None:
    if any(folder.glob(GROUPS)):
        return f"{folder} has lost its {MANIFEST_NAME}; delete the folder and prepare again"
    names = os.listdir(folder) if folder.is_dir() else []
    if (folder.exists() and not folder.is_dir()) or not all(map(_BEGINNING.fullmatch, names)):
        return f"{folder} is neither a store of prepared documents nor an empty folder"
    return None
