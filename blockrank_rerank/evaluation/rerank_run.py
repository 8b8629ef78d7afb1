"""A TREC run reranked as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from blockrank_rerank.errors import DocumentError, RequestError
from blockrank_rerank.formats import Corpus, DataError, Queries, Run

if TYPE_CHECKING:
    from blockrank_rerank.ranking.results import RankedDocument, Ranking

NAMES_IN_MESSAGE = 5


class BatchRanker(Protocol):
    """A ranker of many requests, such as `BlockRankReranker`."""

    def fitting_queries(self, queries: Mapping[str, str]) -> dict[str, str]:
        """Return queries by id as the ranker reads them; raises RequestError for one that it cannot read."""

    def rank_batch(
        self,
        requests: Iterable[tuple[str, Sequence[Any]]],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        show_progress: bool | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Sequence[Ranking]:
        """Rank many requests, each into its documents, best first."""


@dataclass(frozen=True, kw_only=True)
class RerankedRun:
    """A run that was reranked, and what it cost.

    Parameters
    ----------
    run : Run
        Best document first.
    documents : int
        Documents that were scored.
    truncated : int
        Documents in the run of which the model read only the beginning.
    queries_truncated : int
        Queries of which it read only the beginning.
    tokens : int
        Tokens processed.
    seconds : float
        Wall time of ranking.
    """

    run: Run
    documents: int
    truncated: int
    queries_truncated: int
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Return the throughput; 0 when nothing was ranked."""
        return self.tokens / self.seconds if self.seconds else 0.0


def first_documents(run: Run, depth: int) -> Run:
    """Keep the best `depth` documents of each query."""
    return {query: dict(list(ranking.items())[:depth]) for query, ranking in run.items()}


def document_ids(run: Run) -> set[str]:
    """Return the ids of all documents that a run names."""
    return {document for ranking in run.values() for document in ranking}


def check_run(run: Run, queries: Queries, corpus: Corpus) -> None:
    """Refuse a run that cannot be reranked because a text is missing.

    Parameters
    ----------
    run : Run
        Candidates.
    queries, corpus : dict
        Texts by id.

    Raises
    ------
    DataError
        Naming the first few missing ids and how many there are.
    """
    _refuse_missing("queries", run, queries)
    # A dict, unlike a set, names the missing documents in the order of the run.
    _refuse_missing("documents", dict.fromkeys(d for ranking in run.values() for d in ranking), corpus)


def rerank_run(
    ranker: BatchRanker,
    run: Run,
    queries: Queries,
    corpus: Corpus,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    **limits: Any,
) -> RerankedRun:
    """Rerank all candidates of a run.

    Parameters
    ----------
    ranker : BatchRanker
        Usually a `BlockRankReranker`.
    run : Run
        Candidates; ties in the new scores keep their order.
    queries, corpus : dict
        Texts by id.
    on_progress : callable, optional
        Called with the requests and tokens finished since the last call.
    **limits
        ``top_k``, ``threshold`` and ``min_probability``, as the ranker takes them.

    Raises
    ------
    DataError
        If the run names a query or document without text, or one that the model cannot read: for a query before
        the first one is ranked.
    """
    check_run(run, queries, corpus)
    tokens = 0

    def count(requests: int, more_tokens: int) -> None:
        nonlocal tokens
        tokens += more_tokens
        if on_progress:
            on_progress(requests, more_tokens)

    start = time.perf_counter()
    asked = {query: queries[query] for query in run}
    candidates = {query: {document: corpus[document] for document in ranking} for query, ranking in run.items()}
    ranked = rank_candidates(ranker, asked, candidates, on_progress=count, **limits)
    return RerankedRun(
        run={query: scores_by_id(ranked.rankings[query], list(ranking)) for query, ranking in run.items()},
        documents=sum(map(len, run.values())),
        truncated=sum(document.truncated for ranking in ranked.rankings.values() for document in ranking),
        queries_truncated=len(ranked.queries_truncated),
        tokens=tokens,
        seconds=time.perf_counter() - start,
    )


class RankedCandidates(NamedTuple):
    """Rankings by the ids of their queries, and the ids of queries of which only the beginning was read."""

    rankings: dict[str, Ranking]
    queries_truncated: set[str]


def rank_candidates(
    ranker: BatchRanker,
    queries: Mapping[str, str],
    candidates: Mapping[str, Mapping[str, Any]],
    *,
    on_progress: Callable[[int, int], None] | None = None,
    **limits: Any,
) -> RankedCandidates:
    """Rank the documents of each query, and name queries and documents by their ids where one cannot be ranked.

    Parameters
    ----------
    ranker : BatchRanker
        Usually a `BlockRankReranker`.
    queries : mapping of str to str
        Texts by id.
    candidates : mapping of str to mapping
        Id of a query → id of a document → document.
    on_progress, **limits
        As for `rerank_run`.

    Raises
    ------
    DataError
        For a query or document that the model cannot read: for a query before the first one is ranked.
    """
    try:
        read = ranker.fitting_queries(dict(queries))
        requests = [(read[query], list(documents.values())) for query, documents in candidates.items()]
        rankings = ranker.rank_batch(requests, show_progress=False, on_progress=on_progress, **limits)
    except (RequestError, DocumentError) as error:
        raise DataError(_with_names(error, candidates)) from error
    cut = {query for query, text in queries.items() if read[query] != text}
    return RankedCandidates(dict(zip(candidates, rankings, strict=True)), cut)


def scores_by_id(ranking: Sequence[RankedDocument], identifiers: Sequence[str]) -> dict[str, float]:
    """Return scores by id, of documents in input order; those of pruned documents, which are all 0, fall by rank."""
    return {
        identifiers[document.index]: float(-rank) if document.pruned else document.score
        for rank, document in enumerate(ranking)
    }


def _with_names(error: RequestError | DocumentError, candidates: Mapping[str, Mapping[str, Any]]) -> str:
    """Say what is wrong, with the ids of query and document instead of their numbers."""
    # The only request has no number.
    number, cause = (error.number, error.__cause__) if isinstance(error, RequestError) else (0, error)
    if isinstance(number, str):
        return str(error)  # has the id already
    query, documents = list(candidates.items())[number]
    reason = (
        f"document {list(documents)[cause.index]!r} {cause.reason}"
        if isinstance(cause, DocumentError)
        else error.reason
    )
    return f"query {query!r}: {reason}"


def _refuse_missing(noun: str, named: Iterable[str], known: Collection[str]) -> None:
    missing = [identifier for identifier in named if identifier not in known]
    if missing:
        shown = ", ".join(missing[:NAMES_IN_MESSAGE]) + (", …" if len(missing) > NAMES_IN_MESSAGE else "")
        raise DataError(f"the run names {len(missing)} {noun} without text: {shown}")
