"""The specification of rotary position embedding, any dtype. Written from the definition."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of numbers by their angles, in place; see :func:`blockrank_kernels.rotary_`."""
    wide = torch.promote_types(states.dtype, torch.float32)
    rotated = states[..., : cos.shape[-1]]
    (first, second), cosines, sines = (
        [half.to(wide) for half in tensor.chunk(2, -1)] for tensor in (rotated, cos[:, None], sin[:, None])
    )
    halves = first * cosines[0] - second * sines[0], second * cosines[1] + first * sines[1]
    rotated.copy_(torch.cat(halves, -1))
    return states
