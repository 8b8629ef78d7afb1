"""What a document is, and its text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from numbers import Integral
from typing import Any, Literal, Protocol
from uuid import UUID

from blockrank_rerank.formats.text_names import PLAIN_TEXT_NAMES, TEXT_NAMES, plain_name

Document = str | Mapping[str, Any]
"""A text, or a mapping with ``text`` and optional ``title``."""


class HasText(Protocol):
    """An object with its text under this name, such as a node of LlamaIndex."""

    @property
    def text(self) -> str: ...  # noqa: D102


class HasPageContent(Protocol):
    """An object with its text under this name, such as a document of LangChain."""

    @property
    def page_content(self) -> str: ...  # noqa: D102


class HasContent(Protocol):
    """An object with its text under this name, such as a document of Haystack."""

    @property
    def content(self) -> str | None: ...  # noqa: D102


GivenDocument = Document | HasText | HasPageContent | HasContent
"""What callers give for a document: see `plain_document`."""

Source = Literal["read", "cached", "stored", "prepared"]
"""Where a document's states come from; ``read`` where the model reads its text."""

ID_NAMES = ("id", "_id", "doc_id", "id_", "node_id")
"""Keys and attributes of a document's id, the one that counts first."""


def check_is_list(documents: object) -> None:
    """Refuse what is no list of documents, or has no order; raises TypeError."""
    if hasattr(documents, "columns"):
        # Iterating over a table gives the names of its columns.
        raise TypeError(
            f"documents must be a list of documents, got {type(documents).__name__}; of a table with columns text and "
            'title give its rows: .to_dict("records") of pandas, .to_dicts() of polars, .to_pylist() of pyarrow'
        )
    if isinstance(documents, str | Mapping | Set) or not isinstance(documents, Iterable):
        raise TypeError(f"documents must be a list of documents, got {type(documents).__name__}")


def plain_document(given: object, index: int) -> Document:
    """Return what was given for a document as a text or a mapping with ``text`` and optional ``title``.

    Parameters
    ----------
    given : object
        A text; a mapping that has its text under one of `TEXT_NAMES`; or an object that has it in an attribute of such
        a name, among them documents of frameworks, named tuples and rows of pandas.
    index : int
        Of the document, for messages.

    Raises
    ------
    TypeError
        For what has several fields that could be the text, or an object without any. What a mapping holds under
        ``text`` is checked by :func:`document_text`.
    """
    if isinstance(given, str):
        return given
    if isinstance(given, Mapping):
        return _plain_mapping(given, index)
    names = [name for name in TEXT_NAMES if hasattr(given, name)]
    texts = [name for name in names if isinstance(getattr(given, name), str)]
    if not texts and names:
        kind = type(getattr(given, names[0])).__name__
        raise TypeError(f"documents[{index}] needs .{names[0]} as a str, got {kind}")
    if not texts:
        raise TypeError(
            f'documents[{index}] must be a str or a mapping with "text" and optional "title", or an object with .text, '
            f".page_content or .content, got {type(given).__name__}"
        )
    title = getattr(given, "title", None)
    return {"title": title if isinstance(title, str) else None, "text": getattr(given, texts[0])}


def _plain_mapping(given: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    if "text" in given:
        return given
    names = [name for name in given if isinstance(name, str) and plain_name(name) in PLAIN_TEXT_NAMES]
    if len(names) > 1:
        shown = " and ".join(f'"{name}"' for name in names)
        raise TypeError(
            f'documents[{index}] has {shown}, which may each be the text; give {{"text": document["{names[0]}"]}}'
        )
    return {"title": given.get("title"), "text": given[names[0]]} if names else given


def document_id(given: object) -> str | int | None:
    """Return the id of what was given for a document: a text or whole number; None where there is none."""
    if isinstance(given, str):
        return None
    found = [given.get(name) if isinstance(given, Mapping) else getattr(given, name, None) for name in ID_NAMES]
    return next((plain for it in found if (plain := _plain_id(it)) is not None), None)


def _plain_id(given: object) -> str | int | None:
    """A text or whole number as JSON has them: NumPy's numbers, pandas' whole floats and UUIDs become such ones."""
    if isinstance(given, str):
        return given
    if isinstance(given, UUID):
        return str(given)
    if isinstance(given, float) and given.is_integer():  # a column of whole numbers in which some are missing
        return int(given)
    return int(given) if isinstance(given, Integral) and not isinstance(given, bool) else None


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
