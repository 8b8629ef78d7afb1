"""Log-sum-exps of documents, and the rules that make scores of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from blockrank_kernels.gpu import upload
from torch import Tensor

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.model.probability_map import ProbabilityMap


class Lse(NamedTuple):
    """What a query sees of one request's documents: all that scores are made of.

    Attributes
    ----------
    documents : Tensor
        ``[S, H, N]`` log-sum-exp of every signal and head over each document's tokens, fp32.
    nothing : Tensor or None
        ``[S, H]`` of "none of these", the instruction block; None for models that were not trained to abstain.
    """

    documents: Tensor
    nothing: Tensor | None = None

    @classmethod
    def of_blocks(cls, blocks: Tensor, abstention: bool) -> Lse:
        """Split ``[S, H, N]`` of the scored blocks, of which a model that may abstain has the instruction first."""
        return cls(blocks[..., 1:], blocks[..., 0]) if abstention else cls(blocks)

    @classmethod
    def join(cls, documents: Sequence[Tensor], nothing: Tensor | None) -> Lse:
        """Put documents side by side, ``[S, H, n]`` each, beside ``[S, H]`` of "none of these" where there is one."""
        # Parts of one tensor always: sums over another layout round otherwise, and scores would depend on the route.
        blocks = documents if nothing is None else [nothing[..., None], *documents]
        return cls.of_blocks(torch.cat([*blocks], -1), nothing is not None)

    @classmethod
    def of_groups(cls, groups: Sequence[Lse]) -> Lse:
        """Put groups of one list's documents side by side; "none of these" is alike in all of them."""
        return cls.join([group.documents for group in groups], groups[0].nothing)

    def select(self, documents: Sequence[int]) -> Lse:
        """Take some of the documents, in this order."""
        # The dtype is that of none, too.
        chosen = upload(torch.tensor([*documents], dtype=torch.long, device="cpu"), self.documents.device)
        return Lse.join([self.documents[..., chosen]], self.nothing)


class LayerReading(NamedTuple):
    """What the heads of one layer see of one request's documents.

    Attributes
    ----------
    documents : Tensor
        ``[S, H, N]`` log-sum-exp of every signal and head over each document's tokens, fp32.
    content_free : Tensor
        ``[C, H, N]`` of the content-free query's signals, of which there may be none.
    rest : Tensor
        ``[S, H]`` over all other tokens that a signal sees: the instruction, and its own block up to itself.
    """

    documents: Tensor
    content_free: Tensor
    rest: Tensor


def corrected(lse: Tensor, content_free: int) -> Tensor:
    """Subtract from a query's log-sum-exps what a query that asks nothing sees, per head and document.

    Parameters
    ----------
    lse : Tensor
        ``[S + content_free, H, N]``, of the query's signals first.
    content_free : int
        How many signals of the content-free query there are; without any, all stays as it is.

    Returns
    -------
    Tensor
        ``[S, H, N]``.
    """
    return lse[:-content_free] - lse[-content_free:].mean(0) if content_free else lse


def raw_score(lse: Tensor) -> Tensor:
    """Average ``[S, H, N]`` over signals and heads: ``[N]`` in the log domain, not normalised over the list."""
    return lse.mean((0, 1))


OTHERS = 9
"""Documents after the best one that tell how far it stands out."""


def answerable(raw: Sequence[float], numbers: Sequence[float]) -> float:
    """Probability in 0–1 that some document of a list answers the query, by the raw scores of its documents.

    Log odds are ``intercept + slope · best + slope of the lead · (best − mean of the nine next)``: an answer has a
    high score, and stands out of what is merely about the same matter.

    Parameters
    ----------
    raw : sequence of float
        At least one, each document once: copies of the best one would hide its lead.
    numbers : sequence of float
        Intercept, slope, slope of the lead, and the raw score that stands for documents which a short list lacks.
    """
    intercept, slope, slope_of_lead, usual = numbers
    best, *others = sorted(raw, reverse=True)[: 1 + OTHERS]
    mean = (sum(others) + usual * (OTHERS - len(others))) / OTHERS
    log_odds = torch.tensor(intercept + slope * best + slope_of_lead * (best - mean), dtype=torch.float32, device="cpu")
    return float(log_odds.sigmoid())


class ScoringRule(NamedTuple):
    """How scores are made of log-sum-exps: what a config calls its ``reduction``.

    Attributes
    ----------
    share : callable
        ``[S, H, N]`` to ``[N]``: the share of the signals' attention that each document receives; sums to 1.
    logit : callable
        ``[S, H, N]`` to ``[N]``: what a training loss takes as logits over the list.
    relevance : callable
        ``[S, H, N]``, ``[S, H, 1]`` of "none of these" and the sharpness (log odds per unit, above 0) to ``[N]``: the
        probability that each document is relevant, the odds of looking at it rather than at nothing.
    orders_by_raw_score : bool
        Whether documents rank by their raw scores alone, whatever else is in the list.
    """

    share: Callable[[Tensor], Tensor]
    logit: Callable[[Tensor], Tensor]
    relevance: Callable[[Tensor, Tensor, Tensor | float], Tensor]
    orders_by_raw_score: bool


def _mean_share(lse: Tensor) -> Tensor:
    return lse.softmax(-1).mean((0, 1))


def _share_of_mean(lse: Tensor) -> Tensor:
    return raw_score(lse).softmax(-1)


def _mean_relevance(lse: Tensor, nothing: Tensor, sharpness: Tensor | float) -> Tensor:
    return (sharpness * (lse - nothing)).sigmoid().mean((0, 1))


def _relevance_of_mean(lse: Tensor, nothing: Tensor, sharpness: Tensor | float) -> Tensor:
    return (sharpness * (raw_score(lse) - raw_score(nothing))).sigmoid()


RULES = {
    # arXiv 2510.05396, section 3.4; the paper's loss divides the shares themselves by a temperature.
    "mean_of_softmax": ScoringRule(_mean_share, _mean_share, _mean_relevance, orders_by_raw_score=False),
    # A mean log-sum-exp is a logit already.
    "softmax_of_mean": ScoringRule(_share_of_mean, raw_score, _relevance_of_mean, orders_by_raw_score=True),
}
"""By the name that a config has for them: its ``REDUCTIONS``."""


@dataclass(frozen=True)
class Scores:
    """Scores of one request's documents, each a list of N floats."""

    share: list[float]
    raw: list[float]
    probability: list[float] | list[None]


def scores(
    lse: Lse, config: BlockRankConfig, sharpness: Tensor | float, probability_map: ProbabilityMap | None = None
) -> Scores:
    """Compute all scores of one request.

    Parameters
    ----------
    lse : Lse
        Of its documents.
    config : BlockRankConfig
        Names the rule.
    sharpness : Tensor or float
        As :attr:`Backbone.sharpness` gives it.
    probability_map : ProbabilityMap, optional
        Of a calibration: then probabilities come of raw scores by it.

    Raises
    ------
    FloatingPointError
        Where the model computed NaN or infinite values.
    """
    if not all(bool(torch.isfinite(part).all()) for part in lse if part is not None):
        raise FloatingPointError(
            "the model produced non-finite attention scores; load it with dtype='float32' or check its weights for NaN"
        )
    rule = RULES[config.reduction]
    share, raw = rule.share(lse.documents).tolist(), raw_score(lse.documents).tolist()
    if probability_map is not None:
        return Scores(share, raw, probability_map.probabilities(raw))
    if lse.nothing is None:
        return Scores(share, raw, [None] * len(share))
    return Scores(share, raw, rule.relevance(lse.documents, lse.nothing[..., None], sharpness).tolist())
