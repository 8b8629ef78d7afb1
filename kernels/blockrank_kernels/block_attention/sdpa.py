"""Portable block attention: torch's own attention, one call for all segments of one length.

Nothing is padded, and bidirectional segments need no mask. The tables that describe the calls are made once per
layout and serve every layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from blockrank_kernels.gpu import upload
from blockrank_kernels.segments import Segments

GROUP_TOKENS = 16384
"""Key tokens of one attention call, so that the copies stay small beside the model's states."""


@dataclass(frozen=True)
class Group:
    """Segments that share one attention call of ``B`` lists of ``L`` rows and ``K`` keys.

    Attributes
    ----------
    segments : list of int
        ``B`` of them.
    pieces : list of (range, range)
        For each segment the pieces of its context and those of itself.
    mask : Tensor or None
        Broadcasts to ``[B, 1, L, K]``.
    causal : bool
        Whether a plain triangle is the mask.
    """

    segments: list[int]
    pieces: list[tuple[range, range]]
    mask: Tensor | None
    causal: bool


@dataclass(frozen=True)
class Plan:
    """The attention calls of a layout.

    Attributes
    ----------
    rows : list of int
        Lengths of the segments.
    pieces : list of int
        Lengths of the stretches that no segment and no context cuts.
    shared : set of int
        Pieces that are context of more than one segment.
    groups : list of Group
        Together they hold every segment once.
    """

    rows: list[int]
    pieces: list[int]
    shared: set[int]
    groups: list[Group]


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
    """Attend in groups of segments; see :func:`blockrank_kernels.block_attention`."""
    plan = _plan(segments, causal, window, query.device)
    queries, keys, values = query.split(plan.rows), _Pieces(key, plan), _Pieces(value, plan)
    out: list[Tensor] = [query] * len(plan.rows)
    for group in plan.groups:
        rows = _stacked([queries[segment] for segment in group.segments])
        attended = attend(rows, keys.of(group), values.of(group), group.mask, group.causal, scale, softcap)
        for segment, rows_out in zip(group.segments, attended.unbind(), strict=True):
            out[segment] = rows_out
    return torch.cat(out)


def _stacked(tensors: list[Tensor]) -> Tensor:
    """Stack tensors; a single one needs no copy."""
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0].unsqueeze(0)


class _Pieces:
    """A tensor cut at every border. Splits, unlike slices, have a backward that touches every row once."""

    def __init__(self, tensor: Tensor, plan: Plan) -> None:
        self._dtype = tensor.dtype
        self._pieces: Sequence[Tensor] = tensor.split(plan.pieces)
        self._context = list(self._pieces)
        if tensor.requires_grad and torch.is_grad_enabled():
            # Hundreds of documents add to the gradient of one instruction token: not in half precision.
            wide = torch.promote_types(tensor.dtype, torch.float32)
            for piece in plan.shared:
                self._context[piece] = self._pieces[piece].to(wide)

    def of(self, group: Group) -> Tensor:
        """Return what a group reads, ``[B, K, heads, head_dim]``."""
        parts = []
        for context, segment in group.pieces:
            parts += [self._context[piece].to(self._dtype) for piece in context]
            parts += [self._pieces[piece] for piece in segment]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        keys: Tensor = joined.unflatten(0, (len(group.segments), -1))
        return keys


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float, softcap: float | None
) -> Tensor:
    """Attend from ``[B, L, Hq, D]`` to ``[B, K, Hk, D]`` and ``[B, K, Hk, Dv]``; returns ``[B, L, Hq, Dv]``.

    ``mask`` broadcasts to ``[B, 1, L, K]``; ``causal`` stands for a plain triangle.
    """
    if q.device.type == "cpu" and q.requires_grad and torch.is_grad_enabled():
        # Torch's backward pass on a CPU takes thrice as long in half precision (dev/LOG.md).
        wide = torch.promote_types(q.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            return _attend(q.to(wide), k.to(wide), v.to(wide), mask, causal, scale, softcap).to(q.dtype)
    return _attend(q, k, v, mask, causal, scale, softcap)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float, softcap: float | None
) -> Tensor:
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if softcap is not None:
        return _attend_softcapped(q, k, v, mask, causal, scale, softcap).transpose(1, 2)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=causal,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    ).transpose(1, 2)


def _attend_softcapped(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float, softcap: float
) -> Tensor:
    """Attend with soft-capping, which torch's attention lacks; the heads of a group share their keys as rows."""
    batch, heads, length, _ = q.shape
    group = heads // k.shape[1]
    logits = q.unflatten(1, (-1, group)).flatten(2, 3) @ k.transpose(-1, -2) * scale
    logits = (softcap * torch.tanh(logits / softcap)).unflatten(2, (group, length))
    if causal:
        mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()[None, None]
    if mask is not None:
        logits = logits.masked_fill(~mask.unsqueeze(2), float("-inf"))
    out: Tensor = (logits.softmax(-1).flatten(2, 3) @ v).unflatten(2, (group, length))
    return out.reshape(batch, heads, length, v.shape[-1])


def _plan(segments: Segments, causal: bool, window: int | None, device: torch.device) -> Plan:
    name = ("sdpa", causal, window, device)
    if name not in segments.plans:
        segments.plans[name] = _make_plan(segments, causal, window, device)
    plan: Plan = segments.plans[name]
    return plan


def _make_plan(segments: Segments, causal: bool, window: int | None, device: torch.device) -> Plan:
    offsets, starts, ends = (
        bounds.tolist() for bounds in (segments.offsets, segments.context_starts, segments.context_ends)
    )
    borders = sorted({*offsets, *starts, *ends})
    index = {border: number for number, border in enumerate(borders)}
    pieces = [
        (range(index[starts[i]], index[ends[i]]), range(index[offsets[i]], index[offsets[i + 1]]))
        for i in range(segments.num_segments)
    ]
    groups = []
    for members in _group(segments):
        mask = _mask(segments, members, causal, window)
        triangle = mask is not None and ends[members[0]] == starts[members[0]] and window is None
        groups.append(
            Group(
                members,
                [pieces[segment] for segment in members],
                None if mask is None or triangle else upload(mask, device),
                triangle,
            )
        )
    return Plan(
        segments.offsets.diff().tolist(),
        [end - start for start, end in pairwise(borders)],
        _shared(context for context, _ in pieces),
        groups,
    )


def _group(segments: Segments) -> list[list[int]]:
    """Group segments of equal length under contexts of equal length."""
    lengths = segments.offsets.diff().tolist()
    contexts = (segments.context_ends - segments.context_starts).tolist()
    groups: dict[tuple[int, int], list[list[int]]] = {}
    for segment, (length, context) in enumerate(zip(lengths, contexts, strict=True)):
        alike = groups.setdefault((length, context), [[]])
        if len(alike[-1]) * (context + length) >= GROUP_TOKENS:
            alike.append([])
        alike[-1].append(segment)
    return [group for alike in groups.values() for group in alike]


def _shared(contexts: Iterable[range]) -> set[int]:
    """Return the pieces that occur in more than one context."""
    counts = Counter(chain.from_iterable(contexts))
    return {piece for piece, count in counts.items() if count > 1}


def _mask(segments: Segments, members: list[int], causal: bool, window: int | None) -> Tensor | None:
    """Return the mask ``[1 or B, 1, L, K]``, or None where every row sees every key of its list."""
    chosen = torch.tensor(members, device="cpu")
    first, starts = segments.offsets[chosen], segments.context_starts[chosen]
    rows = int(segments.offsets.diff()[chosen[0]])
    context = int(segments.context_ends[chosen[0]] - starts[0])
    mask: Tensor | None = None
    if causal and rows > 1:
        mask = torch.ones(1, rows, context + rows, dtype=torch.bool, device="cpu").tril(context)
    if window is not None:
        row_positions = segments.positions[first[:, None] + torch.arange(rows, device="cpu")]
        context_positions = segments.positions[starts[:, None] + torch.arange(context, device="cpu")]
        key_positions = torch.cat([context_positions, row_positions], 1)
        if bool((row_positions == row_positions[:1]).all()) and bool((key_positions == key_positions[:1]).all()):
            # Documents of a list have the same positions: one mask does for all of them.
            row_positions, key_positions = row_positions[:1], key_positions[:1]
        near = (row_positions[:, :, None] - key_positions[:, None, :]).abs() < window
        if not bool(near.all()):
            mask = near if mask is None else mask & near
    return None if mask is None else mask.unsqueeze(1)
