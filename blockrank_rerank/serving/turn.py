"""Requests of different callers are ranked together, each with its own result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from blockrank_rerank.ranking.attended import AttendedList
from blockrank_rerank.ranking.batches import CHARACTERS_PER_TOKEN, Batches
from blockrank_rerank.ranking.explanation import explained
from blockrank_rerank.ranking.request import CheckedRequest, check_request, fitting_requests
from blockrank_rerank.ranking.results import Ranking
from blockrank_rerank.ranking.score_type import ScoreType
from blockrank_rerank.reranker import BlockRankReranker
from blockrank_rerank.text.document import GivenDocument, given_text, part_of
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
    checked : CheckedRequest
        Query and documents, which can be ranked but for what only the model can refuse.

    Raises
    ------
    Refused
        Where :meth:`BlockRankReranker.rank` raises, but for what only the model can refuse.
    """

    query: str
    documents: Sequence[GivenDocument]
    max_document_tokens: int | None = None
    highlights: bool = False
    tuning: str | None = None
    checked: CheckedRequest = field(init=False)

    def __post_init__(self) -> None:
        """Check query and documents."""
        try:
            self.checked = check_request((self.query, self.documents))
        except (TypeError, ValueError) as error:
            raise Refused(str(error)) from error

    def cost(self, ranker: BlockRankReranker) -> float:
        """Characters to read, or as many as take about as long."""
        lookup = None if ranker.lookup is None else ranker.lookup.of_list(ranker.engine, self.checked.digests)
        # Highlights look at a document once more, and read it once more where nothing keeps its states.
        again = 0 if not self.highlights else 1 if lookup is None else KNOWN_COST

        def characters(text: str) -> float:
            is_known = lookup is not None and lookup.knows(text)
            return len(text) * ((KNOWN_COST if is_known else 1) + again)

        return len(self.query) + sum(map(characters, self.checked.texts))


@dataclass(frozen=True, eq=False)
class Served:
    """What one caller gets.

    Attributes
    ----------
    ranking : Ranking
        Best first; those cut by ``max_document_tokens`` are marked as truncated.
    num_tokens : int
        Of the query and the documents, read or not.
    highlights : sequence of list, optional
        Sentences of each document, in the order of the ranking, most attention first.
    """

    ranking: Ranking
    num_tokens: int
    highlights: Sequence[list[dict[str, Any]]] | None = None


def score_type_of(ranker: BlockRankReranker) -> ScoreType:
    """What answers go by: the probability, which does not depend on the list, or the share of a model without one."""
    return "probability" if ranker.gives_probabilities else "share"


def pass_cost(ranker: BlockRankReranker) -> float:
    """Characters that a forward pass takes, about."""
    return CHARACTERS_PER_TOKEN * ranker.engine.budget.tokens


def rank_together(ranker: BlockRankReranker, requests: Sequence[RankRequest]) -> Iterator[tuple[int, Served]]:
    """Rank requests, several in one forward pass, and yield the number and the ranking of each as it is ready.

    Raises
    ------
    Refused
        For the first request that is at fault; nothing comes after it.
    """
    for tuning in dict.fromkeys(request.tuning for request in requests):
        numbers = [number for number, request in enumerate(requests) if request.tuning == tuning]
        for place, served in _rank_alike(ranker.tuned(tuning), [requests[number] for number in numbers]):
            yield numbers[place], served


def _rank_alike(ranker: BlockRankReranker, requests: Sequence[RankRequest]) -> Iterator[tuple[int, Served]]:
    engine = ranker.engine
    checked = _fitting(ranker, requests)
    yield from ((number, Served(Ranking(), 0)) for number, request in enumerate(checked) if not request.texts)
    for batch in Batches(checked, engine, ranker.lookup):
        candidates = dict(zip(batch.numbers, batch.candidates, strict=True))
        for number, ranked in batch.rankings(engine):
            whole = requests[number].checked.given
            cut = (replace(r, truncated=r.truncated or r.document is not whole[r.index]) for r in ranked)
            found = Ranking(cut, ranked.answerable)
            served = Served(found, candidates[number].num_tokens)
            if requests[number].highlights:
                attended = AttendedList.of_ranked(engine, ranker.lookup, candidates[number], found)
                served = replace(served, highlights=[one.highlights for one in explained(attended, found)])
                del attended
            yield number, served
        del candidates  # the states of this batch must not wait beside those of the next


def _fitting(ranker: BlockRankReranker, requests: Sequence[RankRequest]) -> list[CheckedRequest]:
    """The requests as the model reads them; raises Refused where it cannot."""
    prompt = ranker.engine.prompt
    try:
        if any(request.highlights for request in requests):
            ranker._shared.spec.refuse_decoding("highlights")
        return fitting_requests([_cut(request, prompt) for request in requests], lambda: prompt)
    except ValueError as error:
        raise Refused(str(error)) from error


def _cut(request: RankRequest, prompt: PromptEncoder) -> CheckedRequest:
    """The request, with new documents in place of those that have more tokens than are wanted."""
    checked = request.checked
    if request.max_document_tokens is None:
        return checked
    texts = [given_text(document) for document in checked.plain]
    kept = prompt.beginnings(texts, request.max_document_tokens)
    documents = [
        given if text == whole else part_of(document, (0, len(text)))
        for given, document, whole, text in zip(checked.given, checked.plain, texts, kept, strict=True)
    ]
    return replace(check_request((request.query, documents)), digests=checked.digests)
