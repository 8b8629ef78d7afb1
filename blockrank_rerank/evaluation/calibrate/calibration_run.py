"""A model's probabilities and threshold from judged lists, and what they are worth on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blockrank_rerank.engine.calibrated import calibration_bases, tuning_digest
from blockrank_rerank.evaluation.calibrate.guarantee import Guarantee
from blockrank_rerank.evaluation.calibrate.parts import Parts
from blockrank_rerank.evaluation.calibrate.platt import fit_logistic
from blockrank_rerank.evaluation.calibrate.precision import false_shares
from blockrank_rerank.evaluation.calibrate.scored_list import LikelyList, ScoredList, score_lists
from blockrank_rerank.evaluation.calibration import Bin, expected_calibration_error, reliability
from blockrank_rerank.model.probability_map import ProbabilityMap

if TYPE_CHECKING:
    from blockrank_rerank.reranker import BlockRankReranker


@dataclass(frozen=True)
class Reliability:
    """Expected calibration error, and the bins of the diagram."""

    error: float
    bins: tuple[Bin, ...]

    @classmethod
    def of(cls, lists: Sequence[LikelyList]) -> Reliability:
        """Measure all documents of some lists together."""
        probabilities = np.concatenate([each.probabilities for each in lists])
        relevant = np.concatenate([each.relevant for each in lists]).astype(float)
        return cls(expected_calibration_error(probabilities, relevant), reliability(probabilities, relevant))


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What a calibration is worth on lists that have not made it.

    Parameters
    ----------
    lists, documents : int
        How many they are.
    before : Reliability or None
        Of the model's own probabilities; nothing for a model that gives none.
    after : Reliability
        Of those by the map.
    recall : float or None
        Mean share of a list's relevant documents that reach the threshold, of lists that have any.
    precision : float
        One minus the mean share of those kept that are not relevant, which is 0 where none is kept.
    kept, empty : float
        Mean number of documents kept of a list, and share of the lists of which none is.
    """

    lists: int
    documents: int
    before: Reliability | None
    after: Reliability
    recall: float | None
    precision: float
    kept: float
    empty: float

    @classmethod
    def of(cls, lists: Sequence[ScoredList], found: ProbabilityMap) -> HeldOut:
        """Measure a map and its threshold."""
        likely, own = [each.likely(found) for each in lists], [each.before() for each in lists]
        before = [each for each in own if each is not None]
        kept = [each.probabilities >= found.threshold for each in likely]
        answered = [(some, each.relevant) for some, each in zip(kept, likely, strict=True) if each.relevant.any()]
        return cls(
            lists=len(lists),
            documents=sum(map(len, kept)),
            before=Reliability.of(before) if len(before) == len(lists) else None,
            after=Reliability.of(likely),
            recall=float(np.mean([some[relevant].mean() for some, relevant in answered])) if answered else None,
            precision=1 - float(false_shares(likely, found.threshold).mean()),
            kept=float(np.mean([some.sum() for some in kept])),
            empty=float(np.mean([not some.any() for some in kept])),
        )


def calibrate(
    ranker: BlockRankReranker,
    parts: Parts,
    guarantee: Guarantee,
    advance: Callable[[int, int], None] | None = None,
) -> tuple[ProbabilityMap, HeldOut]:
    """Make a map and a threshold of judged lists.

    Parameters
    ----------
    ranker : BlockRankReranker
        Without a calibration.
    parts : Parts
        Lists as they come in use: the first stage's candidates, with relevant ones among them or without.
    guarantee : Guarantee
        What the threshold keeps; see :func:`recall_threshold` and :func:`precision_threshold` for what is assumed.
    advance : callable, optional
        Called with the lists and tokens done since the last call.

    Raises
    ------
    DataError
        For scores that tell nothing, and a guarantee that no threshold keeps.
    """
    scored = score_lists(ranker, parts.lists, advance)
    end = len(parts.fitting) + len(parts.choosing)
    fitting, choosing, held_out = scored[: len(parts.fitting)], scored[len(parts.fitting) : end], scored[end:]
    slope, intercept = fit_logistic(
        [score for each in fitting for score in each.raw], [label for each in fitting for label in each.relevant]
    )
    engine = ranker.engine
    found = ProbabilityMap(
        slope=slope,
        intercept=intercept,
        threshold=0.0,
        bases=calibration_bases(engine, ranker._shared.spec),
        tuning=tuning_digest(engine),
        facts={},
    )
    likely = [each.likely(found) for each in choosing]
    threshold = guarantee.threshold(likely, [each.likely(found) for each in fitting], len(scored))
    measured = HeldOut.of(held_out, replace(found, threshold=threshold))
    # Where a folder lies is no business of whoever gets the file.
    name = Path(ranker.model).name if Path(ranker.model).exists() else ranker.model
    facts = {
        "model": name,
        "guarantee": guarantee.facts([each.is_answered for each in parts.choosing]),
        "held_out": asdict(measured),
    }
    return replace(found, threshold=threshold, facts=facts), measured
