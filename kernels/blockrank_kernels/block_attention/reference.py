"""The specification of block attention: dense, slow, any dtype. Written from the definition alone."""

from __future__ import annotations

import torch
from torch import Tensor

from blockrank_kernels.segments import Segments


def visible(segments: Segments, causal: bool, window: int | None) -> Tensor:
    """Return ``[T, T]`` bool: whether row ``q`` may see key ``k``."""
    tokens = torch.arange(segments.num_tokens, device="cpu")
    segment = torch.repeat_interleave(torch.arange(segments.num_segments, device="cpu"), segments.offsets.diff())
    start, end = segments.context_starts[segment], segments.context_ends[segment]
    in_context = (tokens >= start[:, None]) & (tokens < end[:, None])
    in_segment = segment[:, None] == segment[None, :]
    if causal:
        in_segment &= tokens[:, None] >= tokens[None, :]
    mask = in_context | in_segment
    if window is not None:
        mask &= (segments.positions[:, None] - segments.positions[None, :]).abs() < window
    return mask


def block_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    causal: bool,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """Return softmax attention under the dense mask; see :func:`blockrank_kernels.block_attention`."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    logits = torch.einsum("qhd,khd->hqk", query, key) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    mask = visible(segments, causal, window).to(query.device)
    weights = logits.masked_fill(~mask, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)
