"""Requests whose types are right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from blockrank_rerank.errors import RequestError
from blockrank_rerank.states.prepared import PreparedDocuments
from blockrank_rerank.text.document import Document, check_is_list, document_text

Request = tuple[str, Sequence[Document]]
"""A query and its candidate documents."""


@dataclass(frozen=True)
class CheckedRequest:
    """A request whose types are right: the query, and the documents as given and as texts with titles.

    ``prepared`` are the documents too, where their states came with them.
    """

    query: str
    given: Sequence[Document]
    texts: list[str]
    prepared: PreparedDocuments | None = None


def check_is_pair(request: object, number: int) -> None:
    """Refuse what is no (query, documents) pair; raises TypeError with its number."""
    if not isinstance(request, tuple | list) or len(request) != 2:
        raise TypeError(f"requests[{number}] must be a (query, documents) pair, got {type(request).__name__}")


def check_requests(requests: Sequence[Request]) -> list[CheckedRequest]:
    """As :func:`check_request`, for all of them; errors name the number of the first that is refused."""
    checked = []
    for number, request in enumerate(requests):
        check_is_pair(request, number)
        with of_request(number, len(requests)):
            checked.append(check_request(request))
    return checked


def check_request(request: Request) -> CheckedRequest:
    """Refuse a query that is none, and documents that are none.

    Raises
    ------
    TypeError
        Naming the document's index where that is at fault.
    ValueError
        For a query without text.
    """
    query, documents = request
    check_query(query)
    documents_as_given, texts = check_documents(documents)
    return CheckedRequest(
        query, documents_as_given, texts, documents if isinstance(documents, PreparedDocuments) else None
    )


def check_query(query: str) -> None:
    """Refuse what is no query.

    Raises
    ------
    TypeError
        For another type.
    ValueError
        For a query without text.
    """
    if not isinstance(query, str):
        raise TypeError(f"query must be a str, got {type(query).__name__}")
    if not query.strip():
        raise ValueError("query must not be empty")


def check_documents(documents: Iterable[Document]) -> tuple[list[Document], list[str]]:
    """Return the documents as given, and their texts with titles.

    Raises
    ------
    TypeError
        For anything but a list of documents, naming the index.
    """
    check_is_list(documents)
    checked = list(documents)
    return checked, [document_text(document, index) for index, document in enumerate(checked)]


@contextmanager
def of_request(number: int, count: int) -> Iterator[None]:
    """Let errors about one of ``count`` requests say which; the only one needs no number."""
    try:
        yield
    except ValueError as error:
        if count == 1:
            raise
        raise RequestError(number, str(error)) from error
    except TypeError as error:
        if count == 1:
            raise
        raise TypeError(f"requests[{number}]: {error}") from error
