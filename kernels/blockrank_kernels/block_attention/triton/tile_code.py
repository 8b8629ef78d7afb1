"""What forward and backward kernels share: a tile's rows, the keys that they see, loads and stores."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def visible_keys(
    tokens, row_positions, keys, end, positions,
    SAME_SEGMENT: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Return ``[rows, keys]``: which keys of a range each row may see."""
    seen = (keys < end)[None, :] & (tokens >= 0)[:, None]
    if SAME_SEGMENT and CAUSAL:
        seen = seen & (keys[None, :] <= tokens[:, None])
    if WINDOW > 0:
        key_positions = tl.load(positions + keys, mask=keys < end, other=0)
        seen = seen & (tl.abs(row_positions[:, None] - key_positions[None, :]) < WINDOW)
    return seen


@triton.jit
def tile_rows(start, end, head, positions, GROUP: tl.constexpr, BLOCK: tl.constexpr, WINDOW: tl.constexpr):
    """Return a tile's tokens ``[BLOCK]`` (-1 where it has no row), their query heads, validity, and positions."""
    rows = tl.arange(0, BLOCK)
    tokens = start + rows // GROUP
    valid = (tokens < end) & (rows < BLOCK // GROUP * GROUP)
    row_positions = tl.zeros([BLOCK], dtype=tl.int64)
    if WINDOW > 0:
        row_positions = tl.load(positions + tokens, mask=valid, other=0)
    return tl.where(valid, tokens, -1), head * GROUP + rows % GROUP, valid, row_positions


@triton.jit
def load_rows(base, tokens, heads, valid, token_stride, head_stride, dim: tl.constexpr, BLOCK: tl.constexpr):
    """Load ``[rows, BLOCK]`` of a ``[T, H, dim]`` tensor; zeros where there is nothing."""
    columns = tl.arange(0, BLOCK)
    pointers = base + (tokens * token_stride + heads * head_stride)[:, None] + columns[None, :]
    mask = valid[:, None] if dim == BLOCK else valid[:, None] & (columns < dim)[None, :]
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def load_keys(base, first, end, stride, dim: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, FULL: tl.constexpr):
    """Load the ``[KEYS, DIM]`` of a ``[T, dim]`` tensor from ``first`` on; a tile is full that ends before ``end``."""
    steps, columns = tl.arange(0, KEYS), tl.arange(0, DIM)
    # Inside a tile 32 bits do.
    pointers = base + first * stride + (steps * stride)[:, None] + columns[None, :]
    if FULL and dim == DIM:
        tile = tl.load(pointers)
    elif FULL:
        tile = tl.load(pointers, mask=(columns < dim)[None, :], other=0.0)
    else:
        tile = tl.load(pointers, mask=(first + steps < end)[:, None] & (columns < dim)[None, :], other=0.0)
    return tile


@triton.jit
def store_rows(base, tokens, heads, valid, token_stride, head_stride, dim: tl.constexpr, values, BLOCK: tl.constexpr):
    """Store ``[rows, BLOCK]`` into a ``[T, H, dim]`` tensor, in its dtype."""
    columns = tl.arange(0, BLOCK)
    pointers = base + (tokens * token_stride + heads * head_stride)[:, None] + columns[None, :]
    tl.store(pointers, values.to(base.dtype.element_ty), mask=valid[:, None] & (columns < dim)[None, :])
