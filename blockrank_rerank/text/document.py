"""What a document is, and its text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

Document = str | Mapping[str, Any]
"""A text, or a mapping with ``text`` and optional ``title``."""


def check_is_list(documents: object) -> None:
    """Refuse what is no list of documents, or has no order; raises TypeError."""
    if hasattr(documents, "columns"):
        # Iterating over a table gives the names of its columns.
        raise TypeError(
            f"documents must be a list of documents, got {type(documents).__name__}; of a table with columns text and "
            'title give documents.to_dict("records")'
        )
    if isinstance(documents, str | Mapping | Set) or not isinstance(documents, Iterable):
        raise TypeError(f"documents must be a list of documents, got {type(documents).__name__}")


def document_text(document: str | Mapping[str, Any], index: int) -> str:
    """The text of a document given as a string or as a mapping with ``text`` and optional ``title``.

    The title comes first, after it a space, and surrounding whitespace goes: the form that the released
    checkpoint was trained on (released utils, format_doc).

    Raises
    ------
    TypeError
        For anything else, naming the document's index.
    """
    if isinstance(document, str):
        return document.strip()
    if not isinstance(document, Mapping):
        raise TypeError(
            f'documents[{index}] must be a str or a mapping with "text" and optional "title", '
            f"got {type(document).__name__}"
        )
    text, title = document.get("text"), document.get("title")
    if not isinstance(text, str) or not isinstance(title, str | None):
        raise TypeError(
            f'documents[{index}] needs "text" as a str and "title" as a str or nothing, '
            f"got {type(text).__name__} and {type(title).__name__}"
        )
    return f"{title} {text}".strip() if title else text.strip()


def part_of(document: Document, bounds: tuple[int, int]) -> Document:
    """Return a part of a document's text as a document, with the title of the whole."""
    start, end = bounds
    if isinstance(document, Mapping):
        return {"title": document.get("title"), "text": document["text"][start:end]}
    return document[start:end]


def given_text(document: Document) -> str:
    """The text of a document as it was given, without its title."""
    return document if isinstance(document, str) else str(document["text"])


def text_and_shift(document: Document) -> tuple[str, int]:
    """The text as given, and what turns an offset of the encoded text (title, space, text, stripped) into one of it."""
    if isinstance(document, str):
        return document, len(document) - len(document.lstrip())
    text, title = document["text"], document.get("title")
    whole = f"{title} {text}" if isinstance(document, Mapping) and title else text
    return text, len(whole) - len(whole.lstrip()) - (len(whole) - len(text))
