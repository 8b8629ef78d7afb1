"""A threshold above which documents are relevant: Learn-then-Test (arXiv 2110.01052)."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence

import numpy as np

from blockrank_rerank.evaluation.calibrate.scored_list import LikelyList, Values

CONFIDENCE = 0.9
"""Of the judged lists that one might have drawn, the share with which a precision is kept."""


def lists_for_precision(level: float, risk: float = 0.0) -> int | None:
    """Fewest lists that can show a precision, if a mean risk is measured on them; nothing if none can."""
    if risk >= 1 - level:
        return None
    return math.ceil(round(math.log(1 / (1 - CONFIDENCE)) / _divergence(risk, 1 - level), 6))


def false_shares(lists: Sequence[LikelyList], threshold: float) -> Values:
    """Share ``[n]`` of each list's kept documents that are not relevant; 0 where none is kept."""
    kept = [each.relevant[each.probabilities >= threshold] for each in lists]
    return np.array([1 - float(some.mean()) if len(some) else 0.0 for some in kept])


def precision_threshold(lists: Sequence[LikelyList], level: float, thresholds: Sequence[float]) -> float | None:
    """Choose the lowest threshold at which, in the mean of lists to come, this share of kept documents is relevant.

    Theorem 1 of arXiv 2110.01052: where a set of settings is found by tests that control the family-wise error at δ,
    with valid p-values of the hypotheses that a setting's risk is above α, all of the set have a risk of at most α with
    a probability of at least 1 - δ over the judged lists. The risk need not fall as the threshold rises. Here it is
    the mean share of a list's kept documents that are not relevant, which is 0 where none is kept; α is one minus the
    level and δ is one minus :data:`CONFIDENCE`. Tests go through the thresholds in a fixed sequence, the highest first,
    each at δ, and end at the first that fails (their section 3); p-values are those of Hoeffding and Bentkus
    (Proposition 2).

    Assumed: lists are independent and come as those to come do (same traffic, first stage, depth and settings); the map
    and ``thresholds`` were made from other lists. Documents of one list may depend on each other.

    Parameters
    ----------
    lists : sequence of LikelyList
        With relevant documents or without.
    level : float
        Precision, in 0-1, both excluded.
    thresholds : sequence of float
        Probabilities that may be chosen.

    Returns
    -------
    float or None
        One of the thresholds; nothing where not even the highest passes.
    """
    chosen = None
    for threshold in sorted(set(thresholds), reverse=True):
        if hoeffding_bentkus(float(false_shares(lists, threshold).mean()), len(lists), 1 - level) > 1 - CONFIDENCE:
            break
        chosen = threshold
    return chosen


def hoeffding_bentkus(risk: float, count: int, limit: float) -> float:
    """P-value of the hypothesis that the mean of losses in 0-1 is above a limit.

    Parameters
    ----------
    risk : float
        Mean of the losses that were measured.
    count : int
        How many they are.
    limit : float
        In 0-1, both excluded.
    """
    hoeffding = math.exp(-count * _divergence(min(risk, limit), limit))
    binomial = importlib.import_module("scipy.stats").binom
    # Rounding of a mean must not count as a loss more.
    bentkus = math.e * float(binomial.cdf(math.ceil(count * risk - 1e-9), count, limit))
    return min(hoeffding, bentkus, 1.0)


def _divergence(risk: float, limit: float) -> float:
    """Kullback-Leibler divergence of two coins, in nats."""
    parts = ((risk, limit), (1 - risk, 1 - limit))
    return sum(share * math.log(share / expected) for share, expected in parts if share > 0)
