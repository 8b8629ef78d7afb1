"""Portable block attention: torch's own attention over buckets of segments of similar length.

Only the attention call pads, and only inside a bucket; every other operation of the model works on
packed tokens. The tables that describe the buckets are made once per layout and serve every layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blockrank_kernels.segments import Segments

LENGTH_RATIO = 1.25
"""Longest to shortest segment of a bucket: bounds padding at 20 %; a skewed list needs few buckets."""

BUCKET_TOKENS = 16384
"""Key tokens of one attention call, so that the gathered copies stay small beside the model's states."""


@dataclass(frozen=True)
class Bucket:
    """Segments that share one attention call of ``B`` lists of ``L`` rows and ``K`` keys.

    ``mask`` broadcasts to ``[B, 1, L, K]``; ``causal`` stands for a plain triangle.
    """

    lists: int
    rows: int
    keys: int
    mask: Tensor | None
    causal: bool


@dataclass(frozen=True)
class Plan:
    """All buckets of a layout; one gather of rows, keys and results serves all of them.

    Attributes
    ----------
    buckets : list of Bucket
        In the order of their rows.
    rows, keys : Tensor
        ``[R]`` and ``[K]`` packed token indices, bucket after bucket; padding repeats a segment's last token.
    row_place, key_place : Tensor
        ``[T]``: where each token stands among the rows, and among the keys of its own segment.
    contexts : Tensor
        ``[C]``: the places among the keys that belong to a context and not to the segment itself.
    """

    buckets: list[Bucket]
    rows: Tensor
    keys: Tensor
    row_place: Tensor
    key_place: Tensor
    contexts: Tensor


class _Gather(torch.autograd.Function):
    """``tensor[index]`` whose backward is a gather too.

    Torch would add every row into zeros. But a token stands once at its own place, and padding gets no
    gradient, so all but the shared contexts is a permutation.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, index: Tensor, place: Tensor, shared: Tensor | None) -> Tensor:
        ctx.save_for_backward(index, place, shared)
        return tensor.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        index, place, shared = ctx.saved_tensors
        own = grad.index_select(0, place)
        if shared is None or not len(shared):
            return own, None, None, None
        # Hundreds of documents add to one instruction token: not in half precision.
        total = own.to(torch.promote_types(own.dtype, torch.float32))
        total.index_add_(0, index[shared], grad.index_select(0, shared).to(total.dtype))
        return total.to(own.dtype), None, None, None


class _Scatter(torch.autograd.Function):
    """``rows[place]`` where no row is taken twice, so that backward needs no addition."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        ctx.count = len(rows)
        return rows.index_select(0, place)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        return grad.new_zeros(ctx.count, *grad.shape[1:]).index_copy_(0, place, grad), None


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
    """Bucketed attention; see :func:`blockrank_kernels.block_attention`."""
    plan = _plan(segments, causal, window, query.device)
    row_counts = [bucket.lists * bucket.rows for bucket in plan.buckets]
    key_counts = [bucket.lists * bucket.keys for bucket in plan.buckets]
    queries = _Gather.apply(query, plan.rows, plan.row_place, None).split(row_counts)
    keys, values = (_Gather.apply(t, plan.keys, plan.key_place, plan.contexts).split(key_counts) for t in (key, value))
    parts = []
    for q, k, v, bucket in zip(queries, keys, values, plan.buckets, strict=True):
        q, k, v = (tensor.unflatten(0, (bucket.lists, -1)) for tensor in (q, k, v))
        parts.append(attend(q, k, v, bucket, scale, softcap).flatten(0, 1))
    return _Scatter.apply(torch.cat(parts), plan.row_place)


def attend(q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, scale: float, softcap: float | None) -> Tensor:
    """``[B, L, Hq, D]``, ``[B, K, Hk, D]``, ``[B, K, Hk, Dv]`` to ``[B, L, Hq, Dv]``."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if softcap is not None:
        return _attend_softcapped(q, k, v, bucket, scale, softcap).transpose(1, 2)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=bucket.mask,
        is_causal=bucket.causal,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    ).transpose(1, 2)


def _attend_softcapped(q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, scale: float, softcap: float) -> Tensor:
    """Torch's attention knows no soft-capping; the heads of a group share their keys as rows."""
    batch, heads, length, _ = q.shape
    group = heads // k.shape[1]
    logits = q.unflatten(1, (-1, group)).flatten(2, 3) @ k.transpose(-1, -2) * scale
    logits = (softcap * torch.tanh(logits / softcap)).unflatten(2, (group, length))
    mask = bucket.mask
    if bucket.causal:
        mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()[None, None]
    if mask is not None:
        logits = logits.masked_fill(~mask.unsqueeze(2), float("-inf"))
    out = logits.softmax(-1).flatten(2, 3) @ v
    return out.unflatten(2, (group, length)).reshape(batch, heads, length, v.shape[-1])


def _plan(segments: Segments, causal: bool, window: int | None, device: torch.device) -> Plan:
    name = ("sdpa", causal, window, device)
    if name not in segments.plans:
        segments.plans[name] = _make_plan(segments, causal, window, device)
    return segments.plans[name]


def _make_plan(segments: Segments, causal: bool, window: int | None, device: torch.device) -> Plan:
    buckets, rows, keys, real_rows, real_keys, contexts = [], [], [], [], [], []
    for group in _group(segments):
        bucket, bucket_rows, bucket_keys, real = _bucket(segments, group, causal, window, device)
        context = torch.zeros(bucket.lists, bucket.keys - bucket.rows, dtype=torch.bool)
        buckets.append(bucket)
        rows.append(bucket_rows.flatten())
        keys.append(bucket_keys.flatten())
        real_rows.append(real.flatten())
        real_keys.append(torch.cat([context, real], 1).flatten())
        contexts.append(torch.cat([~context, torch.zeros_like(real)], 1).flatten())
    all_rows, all_keys = torch.cat(rows), torch.cat(keys)
    return Plan(
        buckets,
        all_rows.to(device),
        all_keys.to(device),
        _places(all_rows, torch.cat(real_rows)).to(device),
        _places(all_keys, torch.cat(real_keys)).to(device),
        torch.cat(contexts).nonzero()[:, 0].to(device),
    )


def _places(index: Tensor, real: Tensor) -> Tensor:
    """The inverse of ``index`` over its real entries, each token of which occurs once."""
    chosen = real.nonzero()[:, 0]
    return torch.empty_like(chosen).index_copy_(0, index[chosen], chosen)


def _group(segments: Segments) -> list[list[int]]:
    """Segments with equal context length and similar own length, in ascending order of both."""
    lengths = segments.offsets.diff().tolist()
    contexts = (segments.context_ends - segments.context_starts).tolist()
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (contexts[i], lengths[i])):
        first = groups[-1][0] if groups else index
        fits = (
            bool(groups)
            and contexts[first] == contexts[index]
            and lengths[index] <= lengths[first] * LENGTH_RATIO
            and (len(groups[-1]) + 1) * (contexts[index] + lengths[index]) <= BUCKET_TOKENS
        )
        if fits:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _bucket(
    segments: Segments, group: list[int], causal: bool, window: int | None, device: torch.device
) -> tuple[Bucket, Tensor, Tensor, Tensor]:
    """A bucket with its rows ``[B, L]``, keys ``[B, K]``, and which rows are real ``[B, L]``."""
    chosen = torch.tensor(group)
    starts, lengths = segments.offsets[chosen], segments.offsets.diff()[chosen]
    context_starts = segments.context_starts[chosen]
    context = int(segments.context_ends[chosen[0]] - context_starts[0])
    steps = torch.arange(int(lengths.max()))
    rows = starts[:, None] + torch.minimum(steps, lengths[:, None] - 1)
    keys = torch.cat([context_starts[:, None] + torch.arange(context), rows], 1)
    mask = _mask(segments, rows, keys, lengths, causal, window)
    triangle = causal and context == 0 and mask is not None and window is None
    mask = None if mask is None or triangle else mask.unsqueeze(1).to(device)
    bucket = Bucket(len(group), rows.shape[1], keys.shape[1], mask, triangle)
    return bucket, rows, keys, steps < lengths[:, None]


def _mask(
    segments: Segments, rows: Tensor, keys: Tensor, lengths: Tensor, causal: bool, window: int | None
) -> Tensor | None:
    """``[1 or B, L, K]`` bool, or nothing where every row sees every key of its list."""
    context, steps = keys.shape[1] - rows.shape[1], torch.arange(rows.shape[1])
    mask: Tensor | None = None
    if causal:
        # A padded key comes after every real row, so one triangle serves the whole bucket.
        own = (steps[:, None] >= steps).unsqueeze(0)
        mask = F.pad(own, (context, 0), value=True) if rows.shape[1] > 1 else None
    elif bool((lengths != lengths[0]).any()):
        own = (steps < lengths[:, None]).unsqueeze(1)
        mask = F.pad(own, (context, 0), value=True).expand(-1, rows.shape[1], -1)
    if window is not None:
        distance = (segments.positions[rows][:, :, None] - segments.positions[keys][:, None, :]).abs()
        if bool((distance >= window).any()):
            near = distance < window
            mask = near if mask is None else mask & near
    return mask
