"""Tile sizes of every kernel, chosen so that nothing spills (benchmarks/compile_kernels.py)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from blockrank_kernels.gpu import LEAST_SHARED_MEMORY, padded_size, shared_memory


class TileSizes(NamedTuple):
    """Tile sizes of one kernel: ``rows`` of the query side, ``keys`` of the key side, with the compiler's options."""

    rows: int
    keys: int
    warps: int
    stages: int


FULL_PRECISION = TileSizes(16, 16, 8, 1)
"""fp32 has no tensor cores without rounding to TF32; it is for checking results."""

MERGE_WARPS = 16
"""A merge holds a whole tile in fp32."""

DELTA_ROWS = 64
"""Rows whose gradients and outputs are multiplied by one program."""


def forward_sizes(dim: int, dtype: torch.dtype, capability: int) -> TileSizes:
    """Return tile sizes of the forward pass, on a GPU of compute capability 80, 90, ….

    With two stages the machine code waits for a tile before it multiplies the one before; with three it does not.
    """
    if dtype == torch.float32:
        return FULL_PRECISION
    if dim > 128:
        return TileSizes(64, 32, 8, _stages(capability))
    # Registers hold both sides of every product, but on Hopper and on Blackwell for data centres (not sm_120).
    crowded = dim == 128 and capability // 10 not in (9, 10)
    return TileSizes(128, 32 if crowded else 64, 8, 3)


def query_gradient_sizes(dim: int, dtype: torch.dtype, softcap: bool, capability: int) -> TileSizes:
    """Return tile sizes of the query's gradient; soft-capping needs registers of its own."""
    if dtype == torch.float32:
        return FULL_PRECISION
    if dim > 128:
        return TileSizes(32, 32, 4, 1)
    return TileSizes(64, 32 if softcap else 64, 8, _stages(capability))


def key_gradient_sizes(dim: int, dtype: torch.dtype, softcap: bool, capability: int) -> TileSizes:
    """Return tile sizes of the gradients of keys and values; soft-capping needs registers of its own."""
    if dtype == torch.float32:
        return FULL_PRECISION if dim <= 128 else FULL_PRECISION._replace(warps=16)
    if dim > 128:
        return TileSizes(32, 32, 8, 1)
    rows = 64 if dim <= 32 else 32
    return TileSizes(rows // 2 if softcap and dim < 128 else rows, 64, 8, _stages(capability))


def _stages(capability: int) -> int:
    """Return how many tiles are in flight where small GPUs have no shared memory for three."""
    return 3 if shared_memory(capability) > LEAST_SHARED_MEMORY else 2


def with_group(sizes: TileSizes, group: int) -> TileSizes:
    """Return taller tiles for a group of query heads that is larger than a tile's rows."""
    return sizes._replace(rows=max(sizes.rows, padded_size(group)))
