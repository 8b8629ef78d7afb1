"""A ranking with the score that a server answers with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from blockrank_rerank.ranking.results import RankedDocument
from blockrank_rerank.ranking.score_type import ScoreType, scored
from blockrank_rerank.serving.turn import Served


@dataclass(frozen=True)
class Row:
    """One document of an answer.

    Attributes
    ----------
    score : float
        Of the kind that was asked for.
    ranked : RankedDocument
        Everything else of it.
    highlights : list or None
        Its sentences, where they were asked for.
    """

    score: float
    ranked: RankedDocument
    highlights: list[dict[str, Any]] | None


def rows(served: Served, score_type: ScoreType, most: int | None = None) -> list[Row]:
    """The best documents by a kind of score, best first; all where ``most`` is None."""
    highlights: Sequence[list[dict[str, Any]] | None] = [None] * len(served.ranking)
    if served.highlights is not None:
        highlights = served.highlights
    of_index = {document.index: sentences for document, sentences in zip(served.ranking, highlights, strict=True)}
    found = scored(served.ranking, score_type)[:most]
    return [Row(document.score, document.ranked, of_index[document.ranked.index]) for document in found]


def extras(row: Row) -> Iterator[tuple[str, Any]]:
    """What our answers have beside those of others: other clients ignore it."""
    yield "share", row.ranked.score
    yield "truncated", row.ranked.truncated
    yield "served_from", row.ranked.served_from
    if row.ranked.passage is not None:
        yield "passage", row.ranked.passage
    if row.ranked.unreadable:
        yield "unreadable", row.ranked.unreadable
    if row.ranked.pruned:
        yield "pruned", True
        yield "layers_read", row.ranked.layers_read
    if row.highlights is not None:
        yield "highlights", row.highlights


def logit(probability: float) -> float:
    """Log-odds of a probability."""
    least = 1e-9  # so that it is finite
    probability = min(max(probability, least), 1 - least)
    return math.log(probability / (1 - probability))
