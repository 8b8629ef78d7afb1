"""The map from raw score to probability: a logistic curve (Platt 1999)."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from blockrank_rerank.errors import install_line
from blockrank_rerank.formats import DataError


def require_scikit_learn() -> Any:
    """Import scikit-learn's linear models.

    Raises
    ------
    ImportError
        With the line that installs it.
    """
    try:
        return importlib.import_module("sklearn.linear_model")
    except ImportError as error:
        raise ImportError(f"calibration needs scikit-learn ({error}); {install_line('calibrate')}") from error


def fit_logistic(raw: Sequence[float], relevant: Sequence[bool]) -> tuple[float, float]:
    """Fit the log odds of relevance as a line over the raw score.

    Two numbers hold where few documents are relevant, rise strictly, so that ties stay as few as they were, and go on
    beyond the scores that were seen: what isotonic regression, whose steps tie many documents, does not do.

    Parameters
    ----------
    raw, relevant : sequence
        ``[N]`` raw scores and judgements, of both kinds.

    Returns
    -------
    (float, float)
        Slope, above 0, and intercept.

    Raises
    ------
    DataError
        Where relevant documents have no higher raw scores than others.
    """
    scores = np.array(raw, dtype=float)
    mean, spread = float(scores.mean()), float(scores.std()) or 1.0
    # Its penalty keeps the slope finite where the scores part both kinds; on the scale of the scores it is slight.
    model = require_scikit_learn().LogisticRegression()
    model.fit(((scores - mean) / spread)[:, None], np.array(relevant))
    slope = float(model.coef_[0, 0]) / spread
    if slope <= 0:
        raise DataError(
            "raw scores of relevant documents are not higher than those of others, so that no rising map makes "
            "probabilities of them; check the labels, or use another model"
        )
    return slope, float(model.intercept_[0]) - slope * mean
