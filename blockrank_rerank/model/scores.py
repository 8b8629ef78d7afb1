from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blockrank_rerank.config import BlockRankConfig


def attention_share(lse: Tensor, reduction: str) -> Tensor:
    """Share of the signal tokens' attention that each document receives.

    Parameters
    ----------
    lse : Tensor
        ``[S, H, N]`` document log-sum-exps, fp32 or fp64.
    reduction : str
        ``mean_of_softmax`` (arXiv 2510.05396, section 3.4) or ``softmax_of_mean``.

    Returns
    -------
    Tensor
        ``[N]``, sums to 1.
    """
    if reduction == "softmax_of_mean":
        return raw_score(lse).softmax(-1)
    return lse.softmax(-1).mean((0, 1))


def raw_score(lse: Tensor) -> Tensor:
    """``[N]`` mean of ``lse`` over signals and heads: log-domain, not normalised over the list."""
    return lse.mean((0, 1))


def relevance(lse: Tensor, nothing: Tensor, reduction: str, sharpness: Tensor | float) -> Tensor:
    """Probability that each document is relevant: the odds of looking at it rather than at nothing.

    Parameters
    ----------
    lse : Tensor
        ``[S, H, N]`` document log-sum-exps.
    nothing : Tensor
        ``[S, H, 1]`` log-sum-exp of the instruction block, the document that is not there.
    reduction : str
        As for :func:`attention_share`.
    sharpness : Tensor or float
        Log odds per unit of score; above 0.

    Returns
    -------
    Tensor
        ``[N]`` in 0–1. Where the query sees no document before the scoring layer, no document's value depends
        on another's.
    """
    if reduction == "softmax_of_mean":
        return (sharpness * (raw_score(lse) - raw_score(nothing))).sigmoid()
    return (sharpness * (lse - nothing)).sigmoid().mean((0, 1))


@dataclass(frozen=True)
class Scores:
    """Scores of one request's documents, each a list of N floats."""

    share: list[float]
    raw: list[float]
    probability: list[float] | list[None]


def scores(lse: Tensor, config: BlockRankConfig, sharpness: Tensor | float) -> Scores:
    """All scores of one request, from its blocks' log-sum-exps and the sharpness, as :class:`Backbone` gives both.

    Raises
    ------
    FloatingPointError
        Where the model computed NaN or infinite values.
    """
    if not bool(torch.isfinite(lse).all()):
        raise FloatingPointError(
            "the model produced non-finite attention scores; load it with dtype='float32' or check its weights for NaN"
        )
    documents = lse[..., 1:] if config.abstention else lse
    share, raw = attention_share(documents, config.reduction).tolist(), raw_score(documents).tolist()
    if not config.abstention:
        return Scores(share, raw, [None] * len(share))
    return Scores(share, raw, relevance(documents, lse[..., :1], config.reduction, sharpness).tolist())
