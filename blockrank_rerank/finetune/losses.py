"""Losses on the log-sum-exps of one list.

All take fp32 tensors and return a scalar. ``N`` are documents, ``H`` heads, ``S`` signal tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from blockrank_rerank.model.scores import attention_share, raw_score, relevance


def list_logits(lse: Tensor, reduction: str, temperature: float) -> Tensor:
    """Return ``[N]`` logits over the documents of a list, from ``lse`` ``[S, H, N]``.

    The paper divides attention shares by a temperature; where a score is the softmax of the mean
    log-sum-exp, that mean is a logit already and is divided directly.

    Parameters
    ----------
    lse : Tensor
        ``[S, H, N]``, log-sum-exps of the documents.
    reduction : str
        The model's scoring rule.
    temperature : float
        Divides what the rule gives.
    """
    if reduction == "softmax_of_mean":
        return raw_score(lse) / temperature
    return attention_share(lse, reduction) / temperature


def contrastive(logits: Tensor, grades: Tensor) -> Tensor:
    """Return InfoNCE with several positives: ``-log sum_n g_n softmax(logits)_n``.

    Grades are divided by the best one, so that equal grades give the loss of the released code and a
    lower grade earns less.

    Parameters
    ----------
    logits, grades : Tensor
        ``[N]``, of one list with a grade above 0.
    """
    weights = grades.clamp_min(0) / grades.max()
    return -torch.logsumexp(logits + weights.log(), -1) + torch.logsumexp(logits, -1)


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the listwise KL divergence from the teacher's softmax at a temperature to the student's.

    Parameters
    ----------
    logits, teacher : Tensor
        ``[N]``, the student's logits and the teacher's scores.
    temperature : float
        Divides the teacher's scores.
    """
    target = (teacher / temperature).softmax(-1)
    return F.kl_div(logits.log_softmax(-1), target, reduction="sum")


def abstention(lse: Tensor, nothing: Tensor, grades: Tensor, reduction: str, sharpness: Tensor | float) -> Tensor:
    """Return the cross-entropy of each document's probability of relevance, mean over the list.

    A document is relevant where the query looks at it rather than at nothing. Some lists should have no relevant
    document (``empty_share``).

    Parameters
    ----------
    lse : Tensor
        ``[S, H, N]``, log-sum-exps of the documents.
    nothing : Tensor
        ``[S, H, 1]``, log-sum-exp of the instruction block.
    grades : Tensor
        ``[N]``, above 0 for a relevant document.
    reduction : str
        The model's scoring rule.
    sharpness : Tensor or float
        As :func:`relevance` takes it.
    """
    relevant = (grades > 0).to(lse.dtype)
    if reduction == "softmax_of_mean":
        return F.binary_cross_entropy_with_logits(sharpness * (raw_score(lse) - raw_score(nothing)), relevant)
    probability = relevance(lse, nothing, reduction, sharpness)
    return F.binary_cross_entropy(probability.clamp(1e-6, 1 - 1e-6), relevant)
