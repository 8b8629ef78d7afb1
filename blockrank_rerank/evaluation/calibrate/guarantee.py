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

    def facts(self, lists: int) -> dict[str, Any]:
        """What a file tells of it, with the number of lists that chose its threshold."""
        confidence = None if self.measure == "recall" else CONFIDENCE
        return {"measure": self.measure, "level": self.level, "confidence": confidence, "lists": lists}

    def check_enough(self, answered: Sequence[bool], all_lists: int) -> None:
        """Refuse lists that are too few, before anything is ranked.

        Parameters
        ----------
        answered : sequence of bool
            For each list that would choose the threshold, whether it has a relevant candidate.
        all_lists : int
            Judged lists of which they are a part.

        Raises
        ------
        DataError
            Saying how many are needed.
        """
        if self.measure == "recall":
            needed, have, noun = lists_for_recall(self.level), sum(answered), "lists with a relevant candidate"
        else:
            needed, have, noun = lists_for_precision(self.level) or 0, len(answered), "lists"
        if have < needed:
            share = have / all_lists or 1 / 2
            raise DataError(
                f"too few lists to promise {self}: {needed} {noun} must choose the threshold, which half of the "
                f"{all_lists} judged lists do, and there are {have}; judge about {math.ceil(needed / share)} lists, or "
                "ask for less"
            )

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
