"""Judged lists in three parts, so that none says what it was asked for."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from blockrank_rerank.evaluation.calibrate.guarantee import Guarantee
from blockrank_rerank.evaluation.calibrate.judged_list import JudgedList, check_classes


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
    check_classes(lists, "lists")
    drawn = random.Random(seed).sample(list(lists), len(lists))
    chosen = len(drawn) // 4, len(drawn) // 4 + len(drawn) // 2
    parts = Parts(drawn[: chosen[0]], drawn[chosen[0] : chosen[1]], drawn[chosen[1] :])
    guarantee.check_enough([each.is_answered for each in parts.choosing], [each.is_answered for each in drawn])
    check_classes(parts.fitting, "lists that make the probabilities")
    return parts
