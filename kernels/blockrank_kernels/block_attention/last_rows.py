from __future__ import annotations

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
) -> Tensor:
    """Attention of the last ``R`` of ``K`` tokens to all of them: a query block over kept keys and values.

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

    Returns
    -------
    Tensor
        ``[R, Hq, Dv]``.
    """
    rows, keys = len(query), len(key)
    mask = torch.ones(rows, keys, dtype=torch.bool, device=query.device)
    if causal:
        mask = mask.tril(keys - rows)
    if window is not None:
        places = positions.to(query.device)
        mask &= (places[keys - rows :, None] - places).abs() < window
    return attend(query[None], key[None], value[None], mask[None, None], False, scale, softcap)[0]
