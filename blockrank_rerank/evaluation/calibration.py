"""How far probabilities can be believed, on lists of which half hold no relevant document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blockrank_rerank.evaluation.measures import shuffled
from blockrank_rerank.evaluation.rerank_run import BatchRanker, first_documents
from blockrank_rerank.evaluation.task import Task
from blockrank_rerank.formats import Corpus
from blockrank_rerank.text.document import document_text

if TYPE_CHECKING:
    from blockrank_rerank.ranking.results import RankedDocument

BINS = 10
THRESHOLDS = (0.1, 0.2, 0.3, 0.5, 0.7)
DEPTH, QUERIES = 20, 200
"""Candidates of a list, and queries at most."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Documents whose probabilities are alike: their mean, the share of relevant ones, and how many they are."""

    probability: float
    relevant: float
    documents: int


@dataclass(frozen=True)
class Pass:
    """Shares of the lists whose best probability reaches a threshold: those with a relevant document, and without."""

    threshold: float
    with_answer: float
    without_answer: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What probabilities are worth.

    Parameters
    ----------
    queries : int
        Each is ranked twice: with its relevant documents among the candidates, and without.
    documents, relevant : int
        Of both lists together.
    error, error_without_answer : float
        Expected calibration error of all documents, and of the lists without a relevant one.
    area : float
        Area under the curve of a list's best probability.
    bins : tuple of Bin
        The reliability diagram: those of ten equal bins that hold a document.
    passes : tuple of Pass
        Of some thresholds.
    """

    queries: int
    documents: int
    relevant: int
    error: float
    error_without_answer: float
    area: float
    bins: tuple[Bin, ...]
    passes: tuple[Pass, ...]


def reliability(probabilities: Values, relevant: Values) -> tuple[Bin, ...]:
    """Sort ``[N]`` probabilities with their ``[N]`` truths into ten equal bins, and leave empty ones out."""
    numbers = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    inside = [numbers == number for number in sorted({*numbers.tolist()})]
    return tuple(
        Bin(float(probabilities[rows].mean()), float(relevant[rows].mean()), int(rows.sum())) for rows in inside
    )


def expected_calibration_error(probabilities: Values, relevant: Values) -> float:
    """Average the distance of probability and share of relevant documents over bins, by size (arXiv 1706.04599).

    Where few documents are relevant, a constant has a small one too: what a threshold on a list's best probability is
    worth, the area under the curve says.
    """
    bins = reliability(probabilities, relevant)
    return sum(abs(each.probability - each.relevant) * each.documents for each in bins) / len(probabilities)


def area_under_curve(with_answer: Sequence[float], without_answer: Sequence[float]) -> float:
    """How often a list with a relevant document has the higher value; ties count half."""
    difference = np.subtract.outer(with_answer, without_answer)
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def measure_calibration(
    ranker: BatchRanker, task: Task, min_relevance: int, seed: int, advance: Callable[[int, int], None] | None = None
) -> Calibration:
    """Rank every query of a sample twice, and compare probabilities with judgements.

    Parameters
    ----------
    ranker : BatchRanker
        Of a model that may abstain.
    task : Task
        The first stage's candidates are joined by the relevant documents.
    min_relevance : int
        Least judgement that counts as relevant.
    seed : int
        Of the sample and the order of the candidates.
    advance : callable, optional
        Called with the lists and tokens done since the last call.
    """
    collection = task.collection.sample(QUERIES, seed)
    # Lists, which have an order of their own: the seed alone is to decide on another.
    judged = {
        query: [name for name, grade in grades.items() if grade >= min_relevance and name in task.corpus]
        for query, grades in collection.qrels.items()
    }
    found = first_documents({query: task.first_stage.get(query, {}) for query in collection.queries}, DEPTH)
    full = shuffled({query: found[query] | dict.fromkeys(judged[query], 0.0) for query in found}, seed)
    relevant = {query: alike(names, judged[query], task.corpus) for query, names in full.items()}
    asked = ranker.fitting_queries(collection.queries)
    lists = [[*names] for names in full.values()]
    without = [[name for name in names if name not in relevant[query]] for query, names in full.items()]

    def ranked(chosen: list[list[str]]) -> Sequence[Sequence[RankedDocument]]:
        texts = [[task.corpus[name] for name in names] for names in chosen]
        requests = list(zip((asked[query] for query in full), texts, strict=True))
        return ranker.rank_batch(requests, show_progress=False, on_progress=advance)

    truths = [[name in relevant[query] for name in names] for query, names in zip(full, lists, strict=True)]
    return calibration(ranked(lists), ranked(without), truths)


def alike(names: Iterable[str], judged: Iterable[str], corpus: Corpus) -> set[str]:
    """Return those of some documents that are among the judged ones, or copies of them under other ids."""
    texts = {document_text(corpus[name], 0) for name in judged}
    return {name for name in names if document_text(corpus[name], 0) in texts}


def calibration(
    full: Sequence[Sequence[RankedDocument]],
    without: Sequence[Sequence[RankedDocument]],
    truths: Sequence[Sequence[bool]],
) -> Calibration:
    """Compare the probabilities of lists with answers and without with the truths of the first, by index."""
    judged = [(d.probability, truth[d.index]) for ranking, truth in zip(full, truths, strict=True) for d in ranking]
    nothing = [(d.probability, False) for ranking in without for d in ranking]
    probabilities, relevant = _columns(judged + nothing)
    best = [_best(rankings) for rankings in (full, without)]
    return Calibration(
        queries=len(full),
        documents=len(relevant),
        relevant=int(relevant.sum()),
        error=expected_calibration_error(probabilities, relevant),
        error_without_answer=expected_calibration_error(*_columns(nothing)) if nothing else 0.0,
        area=area_under_curve(*best),
        bins=reliability(probabilities, relevant),
        passes=tuple(Pass(t, *(float(np.mean(np.array(values) >= t)) for values in best)) for t in THRESHOLDS),
    )


def _columns(pairs: Sequence[tuple[Any, bool]]) -> tuple[Values, Values]:
    probabilities, relevant = zip(*pairs, strict=True)
    return np.array(probabilities, dtype=float), np.array(relevant, dtype=float)


def _best(rankings: Sequence[Sequence[RankedDocument]]) -> list[float]:
    """A list without documents has no probability above 0."""
    return [max((document.probability or 0.0 for document in ranking), default=0.0) for ranking in rankings]
