"""``last_rows_attention``: arguments checked, implementation chosen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from blockrank_kernels.arguments import check_heads, choose
from blockrank_kernels.gpu import launches_on
from blockrank_kernels.last_rows import LastRows
from blockrank_kernels.last_rows_attention import reference, sdpa


def _triton(query: Tensor, key: Tensor, value: Tensor, *arguments: Any) -> Tensor:
    # Triton is an optional dependency and slow to import.
    from blockrank_kernels.last_rows_attention import triton

    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value)):
        raise ValueError("last_rows_attention has no backward pass in triton: use sdpa, or torch.no_grad()")
    with launches_on(query):
        return triton.last_rows_attention(query, key, value, *arguments)


IMPLEMENTATIONS = {"reference": reference.last_rows_attention, "sdpa": sdpa.last_rows_attention, "triton": _triton}


def last_rows_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    last_rows: LastRows,
    *,
    causal: bool,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    parts: Iterable[tuple[Tensor, Tensor]] = (),
    implementation: str = "auto",
) -> Tensor:
    """Return the attention of the last rows of a sequence to all of its keys: a query block over stored states.

    Parameters
    ----------
    query : Tensor
        ``[R, Hq, D]``.
    key, value : Tensor
        ``[n, Hk, D]`` and ``[n, Hk, Dv]`` of the last part, which ends with the rows' own.
    last_rows : LastRows
        How many rows there are, and how many keys each part has.
    causal, scale, softcap, window
        As :func:`blockrank_kernels.block_attention` takes them; within the rows alone attention can be causal.
    parts : iterable of (Tensor, Tensor)
        Keys and values of the parts before, in order. They are taken one at a time, and their attention is merged
        in fp32.
    implementation : str
        ``auto`` (Triton on a GPU that it fits, torch elsewhere), ``reference``, ``sdpa`` or ``triton``; the last has
        no backward pass.

    Returns
    -------
    Tensor
        ``[R, Hq, Dv]``, in the dtype of ``query``.

    Raises
    ------
    ValueError
        For tensors that do not fit each other or the lengths, and unknown implementations.
    """
    check_heads(query, key)
    expected, got = [last_rows.rows, *[last_rows.lengths[-1]] * 2], [len(query), len(key), len(value)]
    if got != expected:
        raise ValueError(f"query, key and value need {expected} tokens for these last_rows, got {got}")
    run = choose(implementation, IMPLEMENTATIONS, query, value)
    return run(query, key, value, last_rows, causal, scale, softcap, window, parts)
