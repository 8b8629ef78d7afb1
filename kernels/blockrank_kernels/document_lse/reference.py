"""The specification of the documents' log-sum-exps, written from the definition: one document after the other."""

from __future__ import annotations

import torch
from torch import Tensor


def document_lse(query: Tensor, key: Tensor, offsets: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Return the log-sum-exp of each document; see :func:`blockrank_kernels.document_lse`."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    query = query.to(dtype)
    key = key.to(dtype).repeat_interleave(query.shape[1] // key.shape[1], 1)
    lse = []
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        logits = torch.einsum("shd,thd->sht", query, key[start:end]) * scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        lse.append(logits.logsumexp(-1))
    return torch.stack(lse, -1)
