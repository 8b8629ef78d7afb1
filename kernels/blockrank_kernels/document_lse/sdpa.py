"""Portable log-sum-exps of documents: one matrix product per group of documents, then a segmented log-sum-exp."""

from __future__ import annotations

import torch
from torch import Tensor

from blockrank_kernels.gpu import upload

GROUP_ELEMENTS = 1 << 22
"""Logits held at once (16 MiB in fp32): the temporary does not grow with the number of documents."""


WITHOUT_SEGMENTS = frozenset({"mps"})
"""Kinds of devices for which torch has no sum over segments (pytorch/pytorch#197880)."""


def document_lse(query: Tensor, key: Tensor, offsets: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Return the log-sum-exp of each document; see :func:`blockrank_kernels.document_lse`."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    signals, heads, dim = query.shape
    group = heads // key.shape[1]
    # Heads of one group share their keys as rows: [Hk, S * group, D].
    rows = query.to(dtype).view(signals, -1, group, dim).permute(1, 0, 2, 3).reshape(-1, signals * group, dim)
    parts = []
    for first, last in _groups(offsets, signals * heads):
        keys = key[offsets[first] : offsets[last]].to(dtype).permute(1, 2, 0)
        logits = (rows @ keys) * scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        parts.append(_segment_logsumexp(logits, upload(offsets[first : last + 1] - offsets[first], key.device)))
    lse = torch.cat(parts, -1)
    return lse.view(-1, signals, group, lse.shape[-1]).transpose(0, 1).flatten(1, 2)


def _groups(offsets: Tensor, rows: int) -> list[tuple[int, int]]:
    """Return ``(first, last)`` ranges of documents whose logits fit the budget; a document alone always fits."""
    bounds, groups, first = offsets.tolist(), [], 0
    for last in range(1, len(bounds)):
        if last - first > 1 and (bounds[last] - bounds[first]) * rows > GROUP_ELEMENTS:
            groups.append((first, last - 1))
            first = last - 1
    return [*groups, (first, len(bounds) - 1)]


def _segment_logsumexp(logits: Tensor, offsets: Tensor) -> Tensor:
    """Reduce ``[..., T]`` to ``[..., N]`` by the log-sum-exp over the tokens between offsets, without atomic sums."""
    shape = (*logits.shape[:-1], len(offsets) - 1)
    numbers = torch.arange(shape[-1], device=logits.device)
    document = torch.repeat_interleave(numbers, offsets.diff(), output_size=logits.shape[-1])
    index = document.expand_as(logits)
    peak = logits.new_full(shape, float("-inf")).scatter_reduce(-1, index, logits.detach(), "amax")
    weights = (logits - peak.gather(-1, index)).exp().movedim(-1, 0).contiguous()
    return peak + _segment_sums(weights, offsets).movedim(0, -1).log()


def _segment_sums(values: Tensor, offsets: Tensor) -> Tensor:
    """Reduce ``[T, ...]`` to ``[N, ...]`` by the sum between offsets, in a fixed order: copies have equal scores."""
    if values.device.type in WITHOUT_SEGMENTS:
        return _segment_sums(values.cpu(), offsets.cpu()).to(values.device)
    return torch.segment_reduce(values, "sum", offsets=offsets, unsafe=True)
