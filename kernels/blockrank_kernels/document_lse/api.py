"""``document_lse``: arguments checked, implementation chosen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blockrank_kernels.arguments import check_heads, choose, default_scale
from blockrank_kernels.document_lse import reference, sdpa
from blockrank_kernels.gpu import launches_on


def _triton(query: Tensor, *arguments: Any) -> Tensor:
    # Triton is an optional dependency and slow to import.
    from blockrank_kernels.document_lse import triton

    with launches_on(query):
        return triton.document_lse(query, *arguments)


IMPLEMENTATIONS = {"reference": reference.document_lse, "sdpa": sdpa.document_lse, "triton": _triton}


def document_lse(
    query: Tensor,
    key: Tensor,
    offsets: Tensor,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    implementation: str = "auto",
) -> Tensor:
    """Return the log-sum-exp of the attention logits that signal tokens give to every document.

    ``lse[s, h, n] = logsumexp over tokens t of document n of (q[s, h] · k[t, h]) * scale``. The softmax
    of this over documents is the attention that each document receives (arXiv 2510.05396, section 3.4).

    Parameters
    ----------
    query : Tensor
        ``[S, Hq, D]``, the signal tokens' queries.
    key : Tensor
        ``[T, Hk, D]``, keys of the packed tokens; ``Hq`` is a multiple of ``Hk``.
    offsets : Tensor
        ``[N + 1]`` int64 on the CPU: document ``n`` holds the keys ``offsets[n] … offsets[n + 1] - 1``.
    scale : float, optional
        Factor on the logits; ``1/sqrt(D)`` by default.
    softcap : float, optional
        Logits become ``softcap * tanh(logits / softcap)``.
    implementation : str
        ``auto`` (Triton on a GPU that it fits, torch elsewhere), ``reference``, ``sdpa`` or ``triton``.

    Returns
    -------
    Tensor
        ``[S, Hq, N]`` in fp32 (fp64 for fp64 input); differentiable.

    Raises
    ------
    ValueError
        For tensors that do not fit, offsets that do not rise strictly inside the keys, and unknown
        implementations.
    """
    check_heads(query, key)
    if offsets.dtype != torch.int64 or offsets.device.type != "cpu" or offsets.dim() != 1 or len(offsets) < 2:
        raise ValueError(
            "offsets must be an int64 tensor [N + 1] on the CPU for at least one document, got "
            f"{offsets.dtype} {list(offsets.shape)} on {offsets.device}"
        )
    if offsets[0] < 0 or offsets[-1] > key.shape[0] or bool((offsets.diff() <= 0).any()):
        raise ValueError(f"offsets must rise strictly within the {key.shape[0]} keys; empty documents have no score")
    run = choose(implementation, IMPLEMENTATIONS, query, key, any_width=True)
    # Under autocast a training loop would round the logits to half precision; log-sum-exps are fp32 always.
    with torch.autocast(query.device.type, enabled=False):
        return run(query, key, offsets, default_scale(query, scale), softcap)
