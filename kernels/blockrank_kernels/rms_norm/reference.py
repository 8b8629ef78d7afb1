"""The specification of root-mean-square normalisation, any dtype. Written from the definition."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(
    states: Tensor, weight: Tensor, eps: float, offset: float, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the normalised sum, and the sum; see :func:`blockrank_kernels.rms_norm`."""
    total = states if residual is None else states + residual
    wide = torch.promote_types(states.dtype, torch.float32)
    values = total.to(wide)
    normalised = values * (values.square().mean(-1, keepdim=True) + eps).rsqrt() * (offset + weight.to(wide))
    return normalised.to(states.dtype), total
