"""The specification of the attention of last rows: every logit at once, any dtype. Written from the definition."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from blockrank_kernels.last_rows import LastRows


def last_rows_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    last_rows: LastRows,
    causal: bool,
    scale: float,
    softcap: float | None,
    window: int | None,
    parts: Iterable[tuple[Tensor, Tensor]],
) -> Tensor:
    """Return softmax attention under the dense mask; see :func:`blockrank_kernels.last_rows_attention`."""
    group = query.shape[1] // key.shape[1]
    keys, values = (
        torch.cat(tensors).repeat_interleave(group, 1) for tensors in zip(*parts, (key, value), strict=True)
    )
    logits = torch.einsum("rhd,khd->hrk", query, keys) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    tokens = torch.arange(len(keys), device="cpu")
    rows = tokens[-last_rows.rows :, None]
    seen = tokens <= rows if causal else torch.ones(len(rows), len(tokens), dtype=torch.bool, device="cpu")
    runs = torch.cat([torch.full((len(keys) - last_rows.lengths[-1],), -1, device="cpu"), last_rows.run_ids])
    seen &= (runs == -1) | (runs == runs[-last_rows.rows :, None])
    if window is not None:
        seen &= (last_rows.positions[-last_rows.rows :, None] - last_rows.positions).abs() < window
    weights = logits.masked_fill(~seen.to(query.device), float("-inf")).softmax(-1)
    return torch.einsum("hrk,khd->rhd", weights, values)
