"""What a model gives the documents of judged lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blockrank_rerank.evaluation.calibrate.judged_list import JudgedList
from blockrank_rerank.evaluation.rerank_run import BatchRanker, rank_candidates
from blockrank_rerank.model.probability_map import ProbabilityMap
from blockrank_rerank.ranking.batches import lowered

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LikelyList:
    """Probabilities ``[N]`` of a list's documents, and which ``[N]`` are relevant."""

    probabilities: Values
    relevant: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ScoredList:
    """What a model says of a list's documents, by index.

    Attributes
    ----------
    raw : list of float
        Raw scores.
    unreadable : list of float
        Shares of text that the tokenizer cannot read, which lower a probability.
    probabilities : list of float or None
        The model's own, of one that gives them.
    relevant : sequence of bool
        The judgements.
    """

    raw: list[float]
    unreadable: list[float]
    probabilities: list[float] | None
    relevant: Sequence[bool]

    def likely(self, found: ProbabilityMap) -> LikelyList:
        """The list with the probabilities that results will have by a map."""
        pairs = zip(found.probabilities(self.raw), self.unreadable, strict=True)
        return LikelyList(np.array([lowered(*pair) for pair in pairs], dtype=float), np.array(self.relevant))

    def before(self) -> LikelyList | None:
        """The list with the model's own probabilities, where it gives them."""
        return None if self.probabilities is None else LikelyList(np.array(self.probabilities), np.array(self.relevant))


def score_lists(
    ranker: BatchRanker, lists: Sequence[JudgedList], advance: Callable[[int, int], None] | None = None
) -> list[ScoredList]:
    """Rank judged lists.

    Raises
    ------
    DataError
        For a query or document that the model cannot read, by its name.
    """
    queries = {each.name: each.query for each in lists}
    candidates = {each.name: {str(n): document for n, document in enumerate(each.documents)} for each in lists}
    rankings = rank_candidates(ranker, queries, candidates, on_progress=advance).rankings
    scored = []
    for each in lists:
        ranking = sorted(rankings[each.name], key=lambda document: document.index)
        own = [document.probability for document in ranking if document.probability is not None]
        scored.append(
            ScoredList(
                raw=[document.raw_score for document in ranking],
                unreadable=[document.unreadable for document in ranking],
                probabilities=own if len(own) == len(ranking) else None,
                relevant=each.relevant,
            )
        )
    return scored
