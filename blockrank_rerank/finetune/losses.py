"""Losses on the log-sum-exps of one list.

All take fp32 tensors and return a scalar. ``N`` are documents, ``H`` heads, ``S`` signal tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from blockrank_rerank.model.scores import RULES


def list_logits(documents: Tensor, reduction: str, temperature: float) -> Tensor:
    """Return ``[N]`` logits over the documents of a list: what the scoring rule takes for one, over a temperature.

    Parameters
    ----------
    documents : Tensor
        ``[S, H, N]``, their log-sum-exps.
    reduction : str
        Name of the model's scoring rule.
    temperature : float
        Divides what the rule gives.
    """
    return RULES[reduction].logit(documents) / temperature


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


def abstention(documents: Tensor, nothing: Tensor, grades: Tensor, reduction: str, sharpness: Tensor | float) -> Tensor:
    """Return the cross-entropy of each document's probability of relevance, mean over the list.

    A document is relevant where the query looks at it rather than at nothing. Some lists should have no relevant
    document (``empty_share``).

    Parameters
    ----------
    documents : Tensor
        ``[S, H, N]``, their log-sum-exps.
    nothing : Tensor
        ``[S, H, 1]``, log-sum-exp of "none of these".
    grades : Tensor
        ``[N]``, above 0 for a relevant document.
    reduction : str
        Name of the model's scoring rule.
    sharpness : Tensor or float
        As :class:`ScoringRule` takes it.
    """
    relevant = (grades > 0).to(documents.dtype)
    probability = RULES[reduction].relevance(documents, nothing, sharpness)
    return F.binary_cross_entropy(probability.clamp(1e-6, 1 - 1e-6), relevant)
