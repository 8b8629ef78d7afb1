"""Requests that can be ranked: their types are right, and their queries fit the model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

from blockrank_rerank.errors import RequestError, request_name
from blockrank_rerank.states.group_files import TextDigests
from blockrank_rerank.states.prepared import PreparedDocuments
from blockrank_rerank.text.document import (
    ID_NAMES,
    Document,
    GivenDocument,
    check_is_list,
    document_text,
    plain_document,
)
from blockrank_rerank.text.prompt import PromptEncoder

Request = tuple[str, Iterable[GivenDocument]]
"""A query and its candidate documents."""

NAMES_IN_WARNING = 5

Name = TypeVar("Name", int, str)


@dataclass(frozen=True)
class CheckedRequest:
    """A request whose types are right: the query, and the documents in three forms.

    They are as given, as texts or mappings with ``text``, and as texts with titles; and ``prepared`` where their states
    came with them. ``digests`` are those of texts that were looked for in a store.
    """

    query: str
    given: Sequence[GivenDocument]
    plain: Sequence[Document]
    texts: list[str]
    prepared: PreparedDocuments | None = None
    digests: TextDigests = field(default_factory=TextDigests, compare=False, repr=False)


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
    prepared = documents if isinstance(documents, PreparedDocuments) else None
    return CheckedRequest(query, *check_documents(documents), prepared)


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


def check_documents(documents: Iterable[GivenDocument]) -> tuple[list[GivenDocument], list[Document], list[str]]:
    """Return the documents as given, as texts or mappings with ``text``, and their texts with titles.

    Raises
    ------
    TypeError
        For anything but a list of documents, naming the index.
    """
    check_is_list(documents)
    given = list(documents)
    plain = [plain_document(document, index) for index, document in enumerate(given)]
    for index, document in enumerate(plain):
        if isinstance(document, Mapping) and document and document.keys() <= {*ID_NAMES}:
            raise TypeError(
                f"documents[{index}] is an id alone, and needs its text: StoredDocuments(folder).get(ids) gives those "
                "that were prepared into a store"
            )
    return given, plain, [document_text(document, index) for index, document in enumerate(plain)]


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


def fitting_queries(queries: Mapping[Name, str], prompt: PromptEncoder) -> dict[Name, str]:
    """Return every query, or its beginning where it is too long and may be cut; warns once of those.

    Parameters
    ----------
    queries : mapping
        By number of the request, or by id.
    prompt : PromptEncoder
        Knows what fits, and whether longer queries may be cut.

    Raises
    ------
    RequestError
        For the first query that cannot be ranked.
    """
    fitting = {}
    for name, query in queries.items():
        try:
            fitting[name] = prompt.fitting(query)
        except ValueError as error:
            raise RequestError(name, str(error)) from error
    warn_of_cut([request_name(name) for name, query in queries.items() if fitting[name] != query], len(queries), prompt)
    return fitting


def fitting_requests(checked: Sequence[CheckedRequest], prompt: Callable[[], PromptEncoder]) -> list[CheckedRequest]:
    """Return requests with queries as :func:`fitting_queries` has them: the last before the first costs anything.

    Parameters
    ----------
    checked : sequence of CheckedRequest
        As :func:`check_requests` gives them.
    prompt : callable
        Gives the model's prompt, for which the model is loaded; not called where no request has documents.

    Raises
    ------
    ValueError
        For a query that cannot be ranked, naming the request where there are several.
    """
    queries = {number: request.query for number, request in enumerate(checked) if request.texts}
    if not queries:
        return [*checked]
    try:
        fitting = fitting_queries(queries, prompt())
    except RequestError as error:
        if len(checked) > 1:
            raise
        raise ValueError(error.reason) from error
    return [replace(request, query=fitting.get(number, request.query)) for number, request in enumerate(checked)]


def warn_of_cut(cut: Sequence[str], count: int, prompt: PromptEncoder) -> None:
    """Warn of the queries that were cut, of so many."""
    if cut:
        names = ", ".join(islice(cut, NAMES_IN_WARNING)) + (", …" if len(cut) > NAMES_IN_WARNING else "")
        warnings.warn(
            f"{len(cut)} of {count} queries have more than the {prompt.longest_query} tokens that the model reads: "
            f"their beginnings stand for them (long_queries is truncate): {names}",
            stacklevel=6,  # whoever called rank
        )
