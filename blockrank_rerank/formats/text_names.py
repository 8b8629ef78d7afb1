"""The names under which documents have their text: what a field or column of other people's files is called."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from blockrank_rerank.errors import DataError

TEXT_NAMES = ("text", "page_content", "content", "contents", "passage", "passage_text", "body", "document", "chunk")
"""Names of a document's text, in any case and with any punctuation; where ``text`` is there, it is the text."""
KNOWN = ("text", "title", "id")
"""What a mapping of columns may name."""


def plain_name(name: str) -> str:
    """Return a name without case and punctuation."""
    return re.sub(r"[\W_]+", "", name.lower())


PLAIN_TEXT_NAMES = {plain_name(name) for name in TEXT_NAMES}


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuse a mapping that names what documents do not have; raises ValueError."""
    strange = sorted({*columns} - {*KNOWN})
    if strange:
        raise ValueError(f"--column may map {', '.join(KNOWN)}, got {', '.join(strange)}")


def text_name(names: Collection[str], columns: Mapping[str, str], path: str, line: int) -> str:
    """Return which of a record's names is that of its text.

    Parameters
    ----------
    names : collection of str
        Keys of an object, or columns of a table.
    columns : mapping
        ``text``, ``title`` or ``id`` → the record's name, where it is known.
    path, line
        Where the record stands, for messages.

    Returns
    -------
    str
        ``"text"``, which may not be there, if no name is known.

    Raises
    ------
    DataError
        If several names could be meant, or one that the mapping names is not there.
    """
    for known, theirs in columns.items():
        if theirs not in names:
            raise DataError(f'no "{theirs}", which --column {known}={theirs} names; found: {_shown(names)}', path, line)
    if "text" in columns:
        return columns["text"]
    found = [name for name in names if plain_name(name) in PLAIN_TEXT_NAMES]
    if len(found) < 2 or "text" in found:
        return "text" if "text" in found or not found else found[0]
    raise DataError(f'{_shown(found)} may each be the text; choose one: --column text="{found[0]}"', path, line)


def column_advice(names: Collection[str]) -> str:
    """What to do where none of a record's names is known, if it has any."""
    return f"; found: {_shown(names)}; name the one that holds the text: --column text=YOURS" if names else ""


def _shown(names: Collection[str]) -> str:
    return ", ".join(f'"{name[:40]}"' for name in [*names][:10]) or "nothing"
