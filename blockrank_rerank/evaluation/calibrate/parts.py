"""Judged lists in three parts, so that none says what it was asked for."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from blockrank_rerank.evaluation.calibrate.guarantee import Guarantee
from blockrank_rerank.evaluation.calibrate.judged_list import JudgedList, check_classes
from blockrank_rerank.formats import DataError

LEAST_LISTS = 20
"""Judged lists of which a quarter can make a map, and another can say what it is worth."""


class Parts(NamedTuple):
    """A quarter makes the map, half choose the threshold, and the rest says what both are worth."""

    fitting: list[JudgedList]
    choosing: list[JudgedList]
    held_out: list[JudgedList]

    @property
    def lists(self) -> list[JudgedList]:
        """All of them, in this order."""
        return [*self.fitting, *self.choosing, *self.held_out]


def draw_parts(lists: Sequence[JudgedList], guarantee: Guarantee, seed: int) -> Parts:
    """Share lists out at random.

    Raises
    ------
    DataError
        For lists that are too few for the guarantee, and labels of one class only.
    """
    if len(lists) < LEAST_LISTS:
        raise DataError(f"calibration needs at least {LEAST_LISTS} judged lists, got {len(lists)}; judge more queries")
    check_classes(lists)
    drawn = random.Random(seed).sample(list(lists), len(lists))
    chosen = len(drawn) // 4, len(drawn) // 4 + len(drawn) // 2
    parts = Parts(drawn[: chosen[0]], drawn[chosen[0] : chosen[1]], drawn[chosen[1] :])
    check_classes(parts.fitting)
    guarantee.check_enough([any(each.relevant) for each in parts.choosing], len(drawn))
    return parts
