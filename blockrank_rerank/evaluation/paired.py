"""How sure a mean over queries is, and the difference of two rankers on the same queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLES, AT_ONCE = 10_000, 500
"""Samples of an interval, and how many of them are drawn at one time, which bounds the memory."""


@dataclass(frozen=True)
class Interval:
    """A mean over queries, and where the middle 95 % of the means of samples lie.

    Attributes
    ----------
    mean, low, high : float
        In the unit of the values.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """The mean of paired differences.

    Attributes
    ----------
    better, worse, equal : int
        Queries with a difference above 0, below 0, of 0.
    """

    better: int
    worse: int
    equal: int


def mean_interval(values: Sequence[float]) -> Interval:
    """Bootstrap the mean of values: samples of as many queries, drawn with replacement.

    Parameters
    ----------
    values : sequence of float
        One per query, at least one.
    """
    drawn_from = np.asarray(values, dtype=float)
    rng = np.random.default_rng(0)
    means: NDArray[Any] = np.concatenate(
        [
            drawn_from[rng.integers(len(drawn_from), size=(AT_ONCE, len(drawn_from)))].mean(1)
            for _ in range(SAMPLES // AT_ONCE)
        ]
    )
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(drawn_from.mean()), float(low), float(high))


def paired_difference(values: Sequence[float], others: Sequence[float]) -> Difference:
    """Bootstrap the mean of ``values - others``, both of the same queries in the same order.

    Raises
    ------
    ValueError
        If there are not as many of the one as of the other.
    """
    differences = [value - other for value, other in zip(values, others, strict=True)]
    interval = mean_interval(differences)
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return Difference(interval.mean, interval.low, interval.high, better, worse, len(differences) - better - worse)
