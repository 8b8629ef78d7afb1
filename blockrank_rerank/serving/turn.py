"""Requests of different callers are ranked together, each with its own result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from blockrank_rerank.ranking.attended import AttendedList
from blockrank_rerank.ranking.batches import CHARACTERS_PER_TOKEN, Batches
from blockrank_rerank.ranking.explanation import explained
from blockrank_rerank.ranking.request import CheckedRequest, check_request, fitting_requests
from blockrank_rerank.ranking.results import Limits, RankedDocument
from blockrank_rerank.reranker import BlockRankReranker
from blockrank_rerank.text.document import Document, document_text, given_text, part_of
from blockrank_rerank.text.prompt import PromptEncoder

KNOWN_COST = 1 / 16
"""Cost of a character whose states are known, beside one that is read; measured were 18 ms and 600 ms (README)."""


class Refused(ValueError):
    """A request cannot be ranked, and is itself at fault: what is said of it is for its client."""


@dataclass(eq=False)
class RankRequest:
    """What one caller wants ranked.

    Attributes
    ----------
    query : str
        What the documents should answer.
    documents : sequence of str or mapping
        As :meth:`BlockRankReranker.rank` takes them.
    max_document_tokens : int, optional
        Tokens of each text that are read; texts that are cut count as truncated.
    highlights : bool
        Whether to show where in each document the query looked.
    tuning : str, optional
        The one of the ranker's tunings with which the query reads.

    Raises
    ------
    Refused
        Where :meth:`BlockRankReranker.rank` raises, but for what only the model can refuse.
    """

    query: str
    documents: Sequence[Document]
    max_document_tokens: int | None = None
    highlights: bool = False
    tuning: str | None = None

    def __post_init__(self) -> None:
        """Check query and documents."""
        try:
            self.documents = check_request((self.query, self.documents)).plain
        except (TypeError, ValueError) as error:
            raise Refused(str(error)) from error

    def cost(self, ranker: BlockRankReranker) -> float:
        """Characters to read, or as many as take about as long."""
        lookup, engine = ranker.lookup, ranker.engine
        texts = [document_text(document, index) for index, document in enumerate(self.documents)]
        known = {text for text in texts if lookup is not None and lookup.knows(text, engine)}
        documents = sum(len(text) * (KNOWN_COST if text in known else 1) for text in texts)
        return len(self.query) + documents * (2 if self.highlights else 1)


@dataclass(frozen=True, eq=False)
class Ranking:
    """What one caller gets.

    Attributes
    ----------
    documents : sequence of RankedDocument
        Best first; those cut by ``max_document_tokens`` are marked as truncated.
    num_tokens : int
        Of the query and the documents, read or not.
    highlights : sequence of list, optional
        Sentences of each document, in the order of ``documents``, most attention first.
    """

    documents: Sequence[RankedDocument]
    num_tokens: int
    highlights: Sequence[list[dict[str, Any]]] | None = None


def pass_cost(ranker: BlockRankReranker) -> float:
    """Characters that a forward pass takes, about."""
    return CHARACTERS_PER_TOKEN * ranker.engine.budget.tokens


def rank_together(ranker: BlockRankReranker, requests: Sequence[RankRequest]) -> Iterator[tuple[int, Ranking]]:
    """Rank requests, several in one forward pass, and yield the number and the ranking of each as it is ready.

    Raises
    ------
    Refused
        For the first request that is at fault; nothing comes after it.
    """
    for tuning in dict.fromkeys(request.tuning for request in requests):
        numbers = [number for number, request in enumerate(requests) if request.tuning == tuning]
        for place, ranking in _rank_alike(ranker.tuned(tuning), [requests[number] for number in numbers]):
            yield numbers[place], ranking


def _rank_alike(ranker: BlockRankReranker, requests: Sequence[RankRequest]) -> Iterator[tuple[int, Ranking]]:
    engine = ranker.engine
    checked = _checked(requests, engine.prompt)
    yield from ((number, Ranking([], 0)) for number, request in enumerate(checked) if not request.texts)
    for batch in Batches(checked, engine, ranker.lookup):
        candidates = dict(zip(batch.numbers, batch.candidates, strict=True))
        for number, ranked in batch.rankings(engine):
            whole = requests[number].documents
            found = [replace(r, truncated=r.truncated or r.document is not whole[r.index]) for r in ranked]
            ranking = Ranking(found, candidates[number].num_tokens)
            if requests[number].highlights:
                try:
                    attended = AttendedList.of_ranked(engine, ranker.lookup, candidates[number], found)
                    highlights = [document.highlights for document in explained(attended, Limits())]
                except ValueError as error:  # of a ranker that decodes
                    raise Refused(str(error)) from error
                ranking = replace(ranking, highlights=highlights)
            yield number, ranking


def _checked(requests: Sequence[RankRequest], prompt: PromptEncoder) -> list[CheckedRequest]:
    cut = [(request.query, _cut(request, prompt)) for request in requests]
    try:
        return fitting_requests(cut, lambda: prompt)
    except ValueError as error:
        raise Refused(str(error)) from error


def _cut(request: RankRequest, prompt: PromptEncoder) -> list[Document]:
    """The documents, with new ones in place of those that have more tokens than are wanted."""
    documents = list(request.documents)
    if request.max_document_tokens is None:
        return documents
    texts = [given_text(document) for document in documents]
    kept = prompt.beginnings(texts, request.max_document_tokens)
    return [
        document if text == whole else part_of(document, (0, len(text)))
        for document, whole, text in zip(documents, texts, kept, strict=True)
    ]
