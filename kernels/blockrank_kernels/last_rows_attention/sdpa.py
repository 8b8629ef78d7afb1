"""Portable attention of last rows: one call of torch's own attention, or a running merge of parts."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, chain, pairwise

import torch
from torch import Tensor

from blockrank_kernels.block_attention.sdpa import attend
from blockrank_kernels.gpu import upload
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
    """Attend to all parts; see :func:`blockrank_kernels.last_rows_attention`."""
    mask = _mask_of_last_part(last_rows, causal, window, query.device)
    if len(last_rows.lengths) == 1:
        mask = None if mask is None else mask[None, None]
        return attend(query[None], key[None], value[None], mask, False, scale, softcap)[0]
    spans = pairwise(accumulate(last_rows.lengths[:-1], initial=0))
    others = ((*pair, _near(last_rows, span, window, query.device)) for pair, span in zip(parts, spans, strict=True))
    # Every row sees itself, in the last part.
    return _merged(query, chain([(key, value, mask)], others), scale, softcap)


def _mask_of_last_part(last_rows: LastRows, causal: bool, window: int | None, device: torch.device) -> Tensor | None:
    """Return which keys of the last part each row sees, ``[R, n]``, made once; nothing where it sees all of them."""
    name = "mask", causal, window, device
    if name not in last_rows.plans:
        end, rows = sum(last_rows.lengths), last_rows.rows
        first = end - last_rows.lengths[-1]
        mask = _near(last_rows, (first, end), window, device)
        if causal and rows > 1:
            mask = torch.ones(rows, end - first, dtype=torch.bool, device=device) if mask is None else mask
            mask = mask.tril(end - first - rows)
        if len(last_rows.runs) > 1:
            runs = upload(last_rows.run_ids, device)
            own = (runs == -1) | (runs == runs[-rows:, None])
            mask = own if mask is None else mask & own
        last_rows.plans[name] = mask
    made: Tensor | None = last_rows.plans[name]
    return made


def _near(last_rows: LastRows, span: tuple[int, int], window: int | None, device: torch.device) -> Tensor | None:
    """Return ``[R, n]`` bool: which keys of a span lie within the window of which rows; nothing without a window."""
    if window is None:
        return None
    name = "positions", device
    if name not in last_rows.plans:
        last_rows.plans[name] = upload(last_rows.positions, device)
    positions: Tensor = last_rows.plans[name]
    return (positions[-last_rows.rows :, None] - positions[slice(*span)]).abs() < window


def _merged(
    query: Tensor, parts: Iterable[tuple[Tensor, Tensor, Tensor | None]], scale: float, softcap: float | None
) -> Tensor:
    """Attend to keys that come in parts with their masks; every row sees some key of the first one."""
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
        if mask is not None:
            logits = logits.unflatten(1, (-1, rows)).masked_fill(~mask, float("-inf")).flatten(1, 2)
        before, peak = peak, torch.maximum(peak, logits.amax(-1, keepdim=True))
        weights, shrunk = (logits - peak).exp(), (before - peak).exp()
        total = total * shrunk + weights.sum(-1, keepdim=True)
        out = out * shrunk + weights @ values.to(wide).transpose(0, 1)
    attended: Tensor = (out / total).unflatten(1, (-1, rows))
    return attended.permute(2, 0, 1, 3).reshape(rows, heads, -1).to(query.dtype)
