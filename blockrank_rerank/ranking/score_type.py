"""Which of a document's scores a caller goes by: its probability, its raw score or its share of the list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from blockrank_rerank.ranking.results import RankedDocument

ScoreType = Literal["probability", "raw", "share"]
SCORE_TYPES: tuple[ScoreType, ...] = get_args(ScoreType)

_SCORES: Mapping[ScoreType, Callable[[RankedDocument], float]] = {
    "probability": lambda document: document.probability or 0.0,
    "raw": lambda document: document.raw_score,
    "share": lambda document: document.score,
}


@dataclass(frozen=True)
class ScoredDocument:
    """A document of a ranking with the score that was asked for.

    Attributes
    ----------
    score : float
        Its probability, raw score or share.
    ranked : RankedDocument
        Everything that the ranking says of it.
    """

    score: float
    ranked: RankedDocument


def check_score_type(score_type: Any) -> None:
    """Refuse what names no score; None leaves the choice to the model.

    Raises
    ------
    ValueError
        For any other value.
    """
    if score_type is not None and score_type not in SCORE_TYPES:
        raise ValueError(f"score_type must be one of {', '.join(SCORE_TYPES)} or None, got {score_type!r}")


def resolve_score_type(score_type: ScoreType | None, gives_probabilities: bool, model: str) -> ScoreType:
    """The named score, or the one that does not depend on the list: probability where a model gives one, else raw.

    Raises
    ------
    ValueError
        For probabilities of a model that gives none, naming it.
    """
    if score_type == "probability" and not gives_probabilities:
        raise ValueError(
            f'score_type="probability" needs a model that gives probabilities, and {model} does not; '
            'use score_type="raw", calibrate it with blockrank calibrate, or train one with abstention_weight'
        )
    return score_type or ("probability" if gives_probabilities else "raw")


def scored(ranking: Sequence[RankedDocument], score_type: ScoreType) -> list[ScoredDocument]:
    """A whole ranking by another score, best first; ties keep the input order.

    Documents that an early layer dropped come last, with no more than the least score of those that it did not: what
    an early layer says is on another scale.
    """
    score = _SCORES[score_type]
    survivors = [ScoredDocument(score(document), document) for document in ranking if not document.pruned]
    survivors.sort(key=lambda document: (-document.score, document.ranked.index))
    least = survivors[-1].score if survivors else 0.0
    pruned = [ScoredDocument(min(score(document), least), document) for document in ranking if document.pruned]
    return survivors + pruned
