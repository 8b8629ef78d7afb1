"""Where in a document the signal tokens look."""

from __future__ import annotations

import torch
from blockrank_kernels import document_lse
from blockrank_kernels.gpu import upload
from torch import Tensor


def token_attention(
    query: Tensor,
    key: Tensor,
    offsets: Tensor,
    *,
    scale: float | None,
    softcap: float | None = None,
    weights: Tensor | None = None,
    implementation: str = "auto",
) -> Tensor:
    """Where in a document the signal tokens look.

    Parameters
    ----------
    query : Tensor
        ``[S, Hq, D]`` signal queries.
    key : Tensor
        ``[T, Hk, D]`` keys of the pack.
    offsets : Tensor
        ``[N + 1]`` consecutive documents.
    scale, softcap, implementation
        As :func:`document_lse` takes them.
    weights : Tensor, optional
        ``[S, Hq]`` of the signals, averaging 1 over them; all alike if not given.

    Returns
    -------
    Tensor
        ``[n]`` fp32 for the documents' ``n`` tokens: attention inside each document, mean over signals and
        heads; sums to 1 over a document.
    """
    first, last = int(offsets[0]), int(offsets[-1])
    # A token is a document of length 1, whose log-sum-exp is its logit.
    logits, lse = (
        document_lse(query, key, bounds, scale=scale, softcap=softcap, implementation=implementation)
        for bounds in (torch.arange(first, last + 1, device="cpu"), offsets)
    )
    document = upload(torch.repeat_interleave(offsets.diff()), lse.device)
    attention = (logits - lse[..., document]).exp()
    if weights is not None:
        attention = weights[..., None] * attention
    return attention.mean((0, 1))
