"""The specification of gated activation, any dtype. Written from the definition."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gated_activation(states: Tensor, activation: str) -> Tensor:
    """Return activated gates times the rest; see :func:`blockrank_kernels.gated_activation`."""
    gate, rest = states.to(torch.promote_types(states.dtype, torch.float32)).chunk(2, -1)
    if activation == "silu":
        activated = gate / (1 + torch.exp(-gate))
    else:
        activated = gate / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    return (activated * rest).to(states.dtype)
