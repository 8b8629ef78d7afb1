from __future__ import annotations

import torch
from torch import Tensor


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


def check_finite(lse: Tensor) -> None:
    """Refuse NaN and infinite values.

    Raises
    ------
    FloatingPointError
        Where there are any.
    """
    if not bool(torch.isfinite(lse).all()):
        raise FloatingPointError(
            "the model produced non-finite attention scores; load it with dtype='float32' or check its weights for NaN"
        )
