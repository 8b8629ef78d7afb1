"""What a job on a fleet has finished: files that appear whole, in a folder that all of its machines see."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blockrank_rerank.errors import DataError
from blockrank_rerank.options import OPTIONS
from blockrank_rerank.system.files import replacing

SETTINGS_NAME, PARTS_NAME = "job.json", "parts"
FORMAT_VERSION = 1

SAME_SCORES = {
    "device", "attention", "cache", "cache_device", "store", "max_memory", "local_files_only", "trust_remote_code",
    "token",
}  # fmt: skip
"""Options that change where and how fast a row is ranked; with any other one changed a job is another job."""


def open_job(folder: Path, options: Mapping[str, Any], limits: Mapping[str, Any]) -> None:
    """Begin a job in a folder, or go on with it.

    Parameters
    ----------
    folder : Path
        New, empty, or of a job with the same settings.
    options : mapping
        Those of the reranker.
    limits : mapping
        What is kept of each ranking.

    Raises
    ------
    ValueError
        For a folder of something else, and of a job with other settings.
    """
    chosen = {name: value for name, value in options.items() if value != OPTIONS[name].default}
    plain = {name: OPTIONS[name].plain(value) for name, value in chosen.items() if name not in SAME_SCORES}
    kept = plain | {name: value for name, value in limits.items() if value is not None}
    # What JSON makes of them, such as texts for the layers of ``prune``, is what is read back.
    wanted = json.loads(json.dumps({"version": FORMAT_VERSION, **kept}))
    path = folder / SETTINGS_NAME
    found = _settings(path) if path.exists() else None
    if found is None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} is neither the folder of a job nor an empty one; give another")
        (folder / PARTS_NAME).mkdir(parents=True, exist_ok=True)
        with replacing(path) as stream:
            stream.write(json.dumps(wanted) + "\n")
    elif found != wanted:
        names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        differing = ", ".join(f"{name} {found.get(name)!r} and not {wanted.get(name)!r}" for name in names)
        raise ValueError(f"{folder} is the folder of a job with {differing}; go on with these, or give another folder")


def row_digest(query: str, documents: Sequence[Any]) -> str:
    """What tells a row from another one with the same id; fields that are None count as missing."""
    text = json.dumps([query, documents], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_part(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep rows that are finished, all or none; the same rows, ranked once more, replace themselves."""
    name = hashlib.sha256(json.dumps([row["id"] for row in rows]).encode()).hexdigest()[:32]
    with replacing(folder / PARTS_NAME / f"{name}.jsonl") as stream:
        stream.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def read_parts(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows that are finished, in any order.

    Raises
    ------
    DataError
        For a file that is not what was written.
    """
    for path in sorted((folder / PARTS_NAME).glob("*.jsonl")):
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                yield _row(line, path, number)


def _row(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if {"id", "digest", "ranking"} <= row.keys():
            return dict(row)
    except (ValueError, AttributeError):
        pass
    raise DataError("damaged; delete this file, and its rows are ranked again", str(path), number)


def _settings(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged; delete the folder and begin again") from error
