"""Losses on the log-sum-exps of one list. All take fp32 tensors and return a scalar."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from blockrank_rerank.model.scores import RULES, Lse


def list_logits(lse: Lse, reduction: str, temperature: float) -> Tensor:
    """``[N]`` logits over the documents of a list: what the scoring rule takes for one, over a temperature."""
    return RULES[reduction].logit(lse.documents) / temperature


def contrastive(logits: Tensor, grades: Tensor) -> Tensor:
    """InfoNCE with several positives: ``-log sum_n g_n softmax(logits)_n``.

    Grades are divided by the best one, so that equal grades give the loss of the released code and a
    lower grade earns less.
    """
    weights = grades.clamp_min(0) / grades.max()
    return -torch.logsumexp(logits + weights.log(), -1) + torch.logsumexp(logits, -1)


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Listwise KL divergence from the teacher's softmax at a temperature to the student's."""
    target = (teacher / temperature).softmax(-1)
    return F.kl_div(logits.log_softmax(-1), target, reduction="sum")


def abstention(documents: Tensor, nothing: Tensor, grades: Tensor, reduction: str, sharpness: Tensor | float) -> Tensor:
    """Cross-entropy of each document's probability of relevance, mean over the list.

    ``documents`` ``[S, H, N]`` and ``nothing`` ``[S, H]`` are those of :class:`Lse`: a document is relevant where the
    query looks at it rather than at nothing. ``sharpness`` is as in :class:`ScoringRule`. Some lists should have no
    relevant document (``empty_share``).
    """
    relevant = (grades > 0).to(documents.dtype)
    probability = RULES[reduction].relevance(documents, nothing[..., None], sharpness)
    return F.binary_cross_entropy(probability.clamp(1e-6, 1 - 1e-6), relevant)
