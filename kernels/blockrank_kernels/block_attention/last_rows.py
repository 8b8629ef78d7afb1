"""Attention of a query block to stored keys and values, joined or one part at a time."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor

from blockrank_kernels.block_attention.sdpa import attend


def last_rows_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    *,
    causal: bool,
    scale: float,
    softcap: float | None,
    window: int | None,
    parts: Iterable[tuple[Tensor, Tensor, Tensor]] | None = None,
) -> Tensor:
    """Return the attention of the last ``R`` of ``K`` tokens to all of them: a query block over stored states.

    Parameters
    ----------
    query : Tensor
        ``[R, Hq, D]``.
    key, value : Tensor
        ``[K, Hk, D]`` and ``[K, Hk, Dv]``; the last ``R`` belong to the rows.
    positions : Tensor
        ``[K]`` int64 of the keys; sliding windows are measured in it.
    causal, scale, softcap, window
        As :func:`blockrank_kernels.block_attention` takes them.
    parts : iterable of (Tensor, Tensor, Tensor), optional
        Keys, values and positions of further tokens, all of them before the rows. They are taken one at a time, and
        their attention is merged in fp32 by the largest logit so far.

    Returns
    -------
    Tensor
        ``[R, Hq, Dv]``.
    """
    rows, keys = len(query), len(key)
    positions = positions.to(query.device)
    mask = _near(positions[keys - rows :], positions, window)
    if causal:
        mask = mask.tril(keys - rows)
    if parts is None:
        return attend(query[None], key[None], value[None], mask[None, None], False, scale, softcap)[0]
    further = ((*part[:2], _near(positions[keys - rows :], part[2].to(query.device), window)) for part in parts)
    return _merged(query, chain([(key, value, mask)], further), scale, softcap)


def _near(rows: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Return ``[R, K]`` bool: which keys lie within the window of which rows."""
    if window is None:
        return torch.ones(len(rows), len(keys), dtype=torch.bool, device=rows.device)
    return (rows[:, None] - keys).abs() < window


def _merged(
    query: Tensor, parts: Iterable[tuple[Tensor, Tensor, Tensor]], scale: float, softcap: float | None
) -> Tensor:
    """Attend to keys that come in parts with their masks; every row sees some key of the first part."""
    rows, heads, dim = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    peak = query.new_full((), float("-inf"), dtype=wide)
    total = out = query.new_zeros((), dtype=wide)
    for keys, values, mask in parts:
        # Heads of one group share their keys as rows: [Hk, group * R, ...].
        queries = query.to(wide).view(rows, keys.shape[1], -1, dim).permute(1, 2, 0, 3)
        logits = queries.flatten(1, 2) @ keys.to(wide).permute(1, 2, 0) * scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        logits = logits.unflatten(1, (-1, rows)).masked_fill(~mask, float("-inf")).flatten(1, 2)
        before, peak = peak, torch.maximum(peak, logits.amax(-1, keepdim=True))
        weights, shrunk = (logits - peak).exp(), (before - peak).exp()
        total = total * shrunk + weights.sum(-1, keepdim=True)
        out = out * shrunk + weights @ values.to(wide).transpose(0, 1)
    attended: Tensor = (out / total).unflatten(1, (-1, rows))
    return attended.permute(2, 0, 1, 3).reshape(rows, heads, -1).to(query.dtype)
