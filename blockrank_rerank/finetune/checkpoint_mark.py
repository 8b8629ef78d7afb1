"""The mark of a checkpoint that is whole: size and checksum of each of its files, written after the last of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from blockrank_rerank.system.files import sync

COMPLETE = "complete"
"""Name of the mark; a checkpoint without one was interrupted while it was written."""

NEEDED = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")
"""What a run cannot go on from as it was, if it is missing: the trainer would begin it anew without a word."""


CHUNK = 1 << 22
"""Bytes that are read at once."""


def mark_complete(folder: Path) -> None:
    """Write the mark of a checkpoint, once its files and it are on the disk.

    Parameters
    ----------
    folder : Path
        The checkpoint's folder.

    Raises
    ------
    OSError
        Where a file cannot be read, or the disk is full.
    """
    files = {}
    for path in _files(folder):
        sync(path)
        files[path.relative_to(folder).as_posix()] = [path.stat().st_size, _checksum(path)]
    sync(folder)
    temporary = folder / f"{COMPLETE}.tmp"
    temporary.unlink(missing_ok=True)  # what has the name already is not written through
    with temporary.open("x", encoding="utf-8") as stream:
        json.dump({"files": files}, stream)
    sync(temporary)
    temporary.replace(folder / COMPLETE)
    sync(folder)


def damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint, against its mark.

    Parameters
    ----------
    folder : Path
        The checkpoint's folder.

    Returns
    -------
    str, optional
        The damaged file and what is wrong with it; nothing for a checkpoint that is whole.
    """
    try:
        files = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))["files"]
        missing = [name for name in NEEDED if name not in files]
        if missing:
            return f"{missing[0]} is missing"
        faults = (_fault(folder / name, *found) for name, found in files.items())
        return next((fault for fault in faults if fault), None)
    except FileNotFoundError:
        return f"its mark {COMPLETE!r} is missing"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"its mark {COMPLETE!r} is empty or torn"


def _files(folder: Path) -> list[Path]:
    marks = {COMPLETE, f"{COMPLETE}.tmp"}
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in marks)


def _fault(path: Path, size: int, checksum: str) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    found = path.stat().st_size
    if found != size:
        return f"{path.name} has {found:,} bytes instead of {size:,}"
    return None if _checksum(path) == checksum else f"{path.name} is not what was written: its checksum differs"


def _checksum(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as stream:
        while part := stream.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()
