"""Files of documents in a folder."""

from __future__ import annotations

import warnings
from pathlib import Path

from blockrank_rerank.formats.structured import TABLE_SUFFIXES

MARKDOWN_SUFFIXES = {".md", ".markdown"}
# A .json file is read line by line as well: reading it as text would rank its brackets.
JSONL_SUFFIXES = {".jsonl", ".ndjson", ".json"}
CORPUS = ("corpus.jsonl", "corpus.jsonl.gz")
"""The documents of a BEIR folder, beside which are queries and judgements."""
READ = {".txt", ".text", ".rst"} | MARKDOWN_SUFFIXES | JSONL_SUFFIXES | TABLE_SUFFIXES


def suffix_of(path: Path) -> str:
    """Return the suffix that says what a file holds, in lower case; that of a compressed file stands before ``.gz``."""
    return (Path(path.stem) if path.suffix.lower() == ".gz" else path).suffix.lower()


def files_of(folder: Path) -> list[Path]:
    """Return the files of documents in a folder and those inside it, in the order of their names.

    Hidden ones are not looked at; of others that are left out a warning tells. A folder with a `CORPUS` is a BEIR
    folder: that file alone has its documents.

    Raises
    ------
    FileNotFoundError
        If there are none.
    """
    if corpus := next(filter(Path.is_file, (folder / name for name in CORPUS)), None):
        return [corpus]
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    shown = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    files = [path for path in shown if suffix_of(path) in READ]
    others = [path for path in shown if suffix_of(path) not in READ]
    if not files:
        raise FileNotFoundError(f"no file of documents in the folder {folder}: expected {', '.join(sorted(READ))}")
    if others:
        warnings.warn(
            f"{len(others):,} files in {folder} are of no kind that is read, such as {others[0].name}; "
            "to read one none the less, name it",
            stacklevel=2,
        )
    return files
