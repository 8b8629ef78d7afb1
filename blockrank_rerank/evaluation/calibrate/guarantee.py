"""What a threshold promises of lists to come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from blockrank_rerank.evaluation.calibrate.precision import (
    CONFIDENCE,
    false_shares,
    lists_for_precision,
    precision_threshold,
)
from blockrank_rerank.evaluation.calibrate.recall import lists_for_recall, recall_threshold
from blockrank_rerank.evaluation.calibrate.scored_list import LikelyList
from blockrank_rerank.formats import DataError

LEAST_LISTS = 20
"""Judged lists of which a quarter can make a map, and another can say what it is worth."""
MOST_TRIED = 100
"""Thresholds that are tested for a precision."""


@dataclass(frozen=True)
class Guarantee:
    """A share of documents: of the relevant ones that are kept, or of the kept ones that are relevant.

    Parameters
    ----------
    measure : str
        ``recall`` or ``precision``.
    level : float
        In 0-1, both excluded.

    Raises
    ------
    ValueError
        For another level.
    """

    measure: Literal["recall", "precision"]
    level: float

    def __post_init__(self) -> None:
        """Check the level."""
        if not 0 < self.level < 1:
            raise ValueError(f"{self.measure} must be between 0 and 1, both excluded, got {self.level!r}")

    def facts(self, answered: Sequence[bool]) -> dict[str, Any]:
        """What a file tells of it: of the lists that chose its threshold, which have a relevant candidate, is given."""
        confidence = None if self.measure == "recall" else CONFIDENCE
        lists = self._counting(answered)
        return {"measure": self.measure, "level": self.level, "confidence": confidence, "lists": lists}

    def check_enough(self, choosing: Sequence[bool], judged: Sequence[bool]) -> None:
        """Refuse lists that are too few, before anything is ranked.

        Parameters
        ----------
        choosing : sequence of bool
            For each list that would choose the threshold, whether it has a relevant candidate.
        judged : sequence of bool
            The same of all judged lists, of which they are half.

        Raises
        ------
        DataError
            Saying how many are needed for the guarantee and for a map.
        """
        needed, noun = lists_for_precision(self.level) or 0, "lists"
        if self.measure == "recall":
            needed, noun = lists_for_recall(self.level), "lists with a relevant candidate"
        have, share = self._counting(choosing), self._counting(judged) / len(judged) if judged else 1
        if have < needed:
            total = math.ceil(2 * needed / share)
            if total <= len(judged):  # the draw has left this part fewer than half of those that count
                total = math.ceil(needed * len(judged) / max(have, 1))
            raise DataError(
                f"too few lists to promise {self}: {needed} {noun} must choose the threshold, which half of the "
                f"{len(judged)} judged lists do, and there are {have}; judge about {max(total, LEAST_LISTS)} lists, or "
                "ask for less"
            )
        if len(judged) < LEAST_LISTS:
            raise DataError(f"calibration needs at least {LEAST_LISTS} judged lists, got {len(judged)}; judge more")

    def _counting(self, answered: Sequence[bool]) -> int:
        """How many lists say something of it: for a recall those with a relevant candidate, for a precision all."""
        return sum(answered) if self.measure == "recall" else len(answered)

    def threshold(self, lists: Sequence[LikelyList], fitted: Sequence[LikelyList], all_lists: int) -> float:
        """The threshold that keeps it.

        Parameters
        ----------
        lists : sequence of LikelyList
            Which choose it; enough of them.
        fitted : sequence of LikelyList
            Others, of which the map was made: their relevant documents say which thresholds are tried for a precision.
        all_lists : int
            Judged lists of which ``lists`` are a part, for the message.

        Raises
        ------
        DataError
            Where no threshold keeps it.
        """
        if self.measure == "recall":
            return recall_threshold(lists, self.level)
        relevant = np.concatenate([each.probabilities[each.relevant] for each in fitted])
        tried = np.quantile(relevant, np.linspace(0, 1, MOST_TRIED), method="lower")
        found = precision_threshold(lists, self.level, tried.tolist())
        if found is None:
            raise self._out_of_reach(lists, float(tried.max()), all_lists)
        return found

    def _out_of_reach(self, lists: Sequence[LikelyList], highest: float, all_lists: int) -> DataError:
        risk = float(false_shares(lists, highest).mean())
        needed = lists_for_precision(self.level, risk)
        more = "more lists would not help: ask for less, or use another model"
        if needed is not None:
            wanted = math.ceil(needed * all_lists / len(lists))
            more = f"judge about {wanted} lists instead of {all_lists}, or ask for less"
        return DataError(
            f"no threshold can promise {self}: at the highest, {highest:.3f}, a list has {risk:.1%} that is not "
            f"relevant in the mean of {len(lists)} lists; {more}"
        )

    def __str__(self) -> str:
        return f"{self.measure} {self.level:g}"
