"""Portable block attention: torch's own attention over buckets of segments of similar length.

Only the attention call pads, and only inside a bucket; every other operation of the model works on
packed tokens. The tables that describe the buckets are made once per layout and serve every layer.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """Segments that share one attention call.

    ``rows`` ``[B, L]`` and ``keys`` ``[B, K]`` are packed token indices (padding repeats a segment's last
    token); ``mask`` broadcasts to ``[B, 1, L, K]``. ``source`` ``[R]`` and ``target`` ``[R]`` say which of
    the ``B * L`` rows are real and where they belong. One segment alone is a slice and needs no copy.
    """

    rows: Tensor | slice
    keys: Tensor | slice
    mask: Tensor | None
    causal: bool
    source: Tensor | None
    target: Tensor | None


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
    out = query.new_empty(query.shape[0], query.shape[1], value.shape[2])
    for bucket in _plan(segments, causal, window, query.device):
        q, k, v = _take(query, bucket.rows), _take(key, bucket.keys), _take(value, bucket.keys)
        result = _attend(q, k, v, bucket, scale, softcap)
        if bucket.target is None:
            out[bucket.rows] = result[0]
        else:
            out[bucket.target] = result.flatten(0, 1)[bucket.source]
    return out


def _take(tensor: Tensor, index: Tensor | slice) -> Tensor:
    return tensor[index].unsqueeze(0) if isinstance(index, slice) else tensor[index]


def _attend(q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, scale: float, softcap: float | None) -> Tensor:
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


def _plan(segments: Segments, causal: bool, window: int | None, device: torch.device) -> list[Bucket]:
    name = ("sdpa", causal, window, device)
    if name not in segments.plans:
        groups = _group(segments)
        segments.plans[name] = [_bucket(segments, group, causal, window, device) for group in groups]
    return segments.plans[name]


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


def _bucket(segments: Segments, group: list[int], causal: bool, window: int | None, device: torch.device) -> Bucket:
    chosen = torch.tensor(group)
    starts, lengths = segments.offsets[chosen], segments.offsets.diff()[chosen]
    context_starts = segments.context_starts[chosen]
    context = int(segments.context_ends[chosen[0]] - context_starts[0])
    steps = torch.arange(int(lengths.max()))
    rows = starts[:, None] + torch.minimum(steps, lengths[:, None] - 1)
    keys = torch.cat([context_starts[:, None] + torch.arange(context), rows], 1)
    mask = _mask(segments, rows, keys, lengths, causal, window)
    plain_causal = causal and context == 0 and mask is not None and mask.shape[0] == 1 and window is None
    mask = None if mask is None or plain_causal else mask.unsqueeze(1).to(device)
    if len(group) == 1 and (context == 0 or context_starts[0] + context == starts[0]):
        start, end = int(starts[0]), int(starts[0] + lengths[0])
        return Bucket(slice(start, end), slice(start - context, end), mask, plain_causal, None, None)
    real = (steps < lengths[:, None]).flatten()
    target = rows.flatten()[real].to(device)
    return Bucket(rows.to(device), keys.to(device), mask, plain_causal, real.nonzero()[:, 0].to(device), target)


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
