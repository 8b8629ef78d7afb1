"""A threshold that keeps relevant documents: conformal risk control (arXiv 2208.02814)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from blockrank_rerank.evaluation.calibrate.scored_list import LikelyList


def lists_for_recall(level: float) -> int:
    """Fewest lists with a relevant document for a threshold that keeps this share of relevant documents."""
    return max(1, math.ceil(round(1 / (1 - level), 6)) - 1)


def recall_threshold(lists: Sequence[LikelyList], level: float) -> float:
    """Choose the highest threshold that keeps, in the mean of lists to come, this share of the relevant documents.

    Theorem 1 of arXiv 2208.02814: let the losses of ``n + 1`` exchangeable lists be at most ``B``, and fall as λ rises.
    Where λ is the least with ``n / (n + 1) · (mean loss of n) + B / (n + 1) ≤ α``, the expected loss of the list that
    is left is at most α. Here λ is one minus the threshold; the loss is the share of a list's relevant documents whose
    probability is below the threshold, so that ``B = 1``, and α is one minus the level. The expectation is over the
    judged lists too.

    Assumed: lists with a relevant candidate come as those that were judged, in any order alike (same traffic, first
    stage, depth and settings); the map was made from other lists. Documents of one list may depend on each other.
    A relevant document that the first stage has not found is not counted.

    Parameters
    ----------
    lists : sequence of LikelyList
        Those without a relevant document are passed over.
    level : float
        Recall, in 0-1, both excluded.

    Returns
    -------
    float
        In 0-1.

    Raises
    ------
    ValueError
        For fewer lists than :func:`lists_for_recall`.
    """
    found = [each.probabilities[each.relevant] for each in lists if each.relevant.any()]
    if len(found) < (needed := lists_for_recall(level)):
        raise ValueError(f"recall {level:g} needs {needed} lists with a relevant document, got {len(found)}")
    # Every relevant document weighs one part of its list; the loss rises where a threshold passes one.
    values = np.concatenate(found)
    order = np.argsort(values, kind="stable")
    weights = np.concatenate([np.full(len(each), 1 / len(each)) for each in found])[order]
    lost = np.concatenate([[0.0], np.cumsum(weights)[:-1]])  # below each document, its equals apart
    values = values[order]
    lost = lost[np.searchsorted(values, values, side="left")]
    # Rounding of a sum must not cost a document.
    allowed = (1 - level) * (len(found) + 1) - 1 + 1e-9
    return float(values[lost <= allowed].max())
