"""Queries that a model can read: all are checked, and shortened where that is wanted, before the first is ranked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from blockrank_rerank.errors import RequestError, request_name
from blockrank_rerank.ranking.request import CheckedRequest
from blockrank_rerank.text.prompt import PromptEncoder

NAMES_IN_WARNING = 5

Name = TypeVar("Name", int, str)


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


def with_fitting_queries(requests: Sequence[CheckedRequest], prompt: PromptEncoder) -> list[CheckedRequest]:
    """Return the requests with queries as :func:`fitting_queries` has them; without documents none is read.

    Raises
    ------
    ValueError
        Naming the request, where there are several.
    """
    queries = {number: request.query for number, request in enumerate(requests) if request.texts}
    try:
        fitting = fitting_queries(queries, prompt)
    except RequestError as error:
        if len(requests) > 1:
            raise
        raise ValueError(error.reason) from error
    return [replace(request, query=fitting.get(number, request.query)) for number, request in enumerate(requests)]


def warn_of_cut(cut: Sequence[str], count: int, prompt: PromptEncoder) -> None:
    """Warn of the queries that were cut, of so many."""
    if cut:
        names = ", ".join(islice(cut, NAMES_IN_WARNING)) + (", …" if len(cut) > NAMES_IN_WARNING else "")
        warnings.warn(
            f"{len(cut)} of {count} queries have more than the {prompt.longest_query} tokens that the model reads: "
            f"their beginnings stand for them (long_queries is truncate): {names}",
            stacklevel=6,  # whoever called rank
        )
