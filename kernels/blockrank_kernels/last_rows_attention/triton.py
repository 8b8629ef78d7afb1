"""Attention of last rows in Triton: block attention's kernels, launched for one part of the keys after the other."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, chain

import torch
from torch import Tensor

from blockrank_kernels.block_attention.triton.launch import Problem, uploaded_positions
from blockrank_kernels.block_attention.triton.tiles import Tiles, last_row_tiles
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
    """Attend to all parts on a GPU; see :func:`blockrank_kernels.last_rows_attention`."""
    positions = uploaded_positions(last_rows, window, query.device)
    first_row = sum(last_rows.lengths) - last_rows.rows
    whole = Problem(query, key, value, causal, scale, softcap, window, positions, first_row)
    sizes = whole.forward_sizes()
    items, tiles = _tiles(last_rows, causal, sizes.rows // whole.group, whole.busy(), query.device)
    split = len(tiles.split) > 0
    out_lse = whole.outputs()
    results = whole.partial_outputs(tiles, sizes) if split else out_lse
    first_keys = accumulate(last_rows.lengths[:-1], initial=0)
    for part, first_key, (keys, values) in zip(items, first_keys, chain(parts, [(key, value)]), strict=True):
        problem = Problem(query, keys, values, causal, scale, softcap, window, positions, first_row, first_key)
        problem.attend(part, results, sizes, split)
    if split:
        whole.merge(results, out_lse, tiles, sizes)
    return out_lse[0]


def _tiles(last_rows: LastRows, causal: bool, size: int, busy: int, device: torch.device) -> tuple[list[Tensor], Tiles]:
    name = "tiles", causal, size, busy, device
    if name not in last_rows.plans:
        runs = last_rows.runs or [last_rows.rows]
        last_rows.plans[name] = last_row_tiles(runs, last_rows.lengths, causal, size, busy, device)
    tiles: tuple[list[Tensor], Tiles] = last_rows.plans[name]
    return tiles
