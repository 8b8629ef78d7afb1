"""Rotary position embedding in Triton: every pair of numbers is read and written once, where it lies."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from blockrank_kernels.gpu import COMPILER, padded_size, row_tile

PAIRS = 1024
"""Pairs of numbers that one program takes: each of 128 threads loads 16 bytes in half precision."""


@triton.jit(do_not_specialize=["rows_in_all"])
def rotary_kernel(
    states, cos, sin, states_token, states_head, cos_token, sin_token, heads, rows_in_all,
    half: tl.constexpr, ROWS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Turn the pairs of rows, of which row ``r`` is head ``r % heads`` of a token."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, HALF)
    valid = (rows < rows_in_all)[:, None] & (columns < half)[None, :]
    # Divided in 32 bits, multiplied in 64.
    token, head = (rows // heads).to(tl.int64), (rows % heads).to(tl.int64)
    low = states + (token * states_token + head * states_head)[:, None] + columns[None, :]
    cosines = cos + (token * cos_token)[:, None] + columns[None, :]
    sines = sin + (token * sin_token)[:, None] + columns[None, :]
    first = tl.load(low, mask=valid, other=0.0).to(tl.float32)
    second = tl.load(low + half, mask=valid, other=0.0).to(tl.float32)
    low_cos = tl.load(cosines, mask=valid, other=0.0).to(tl.float32)
    low_sin = tl.load(sines, mask=valid, other=0.0).to(tl.float32)
    high_cos = tl.load(cosines + half, mask=valid, other=0.0).to(tl.float32)
    high_sin = tl.load(sines + half, mask=valid, other=0.0).to(tl.float32)
    kind = states.dtype.element_ty
    tl.store(low, (first * low_cos - second * low_sin).to(kind), mask=valid)
    tl.store(low + half, (second * high_cos + first * high_sin).to(kind), mask=valid)


def rotary_(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of numbers on a GPU; see :func:`blockrank_kernels.rotary_`."""
    if states.stride(-1) != 1:
        raise ValueError("rotary_ in triton needs states whose heads have their numbers side by side")
    cos, sin = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (cos, sin))
    tokens, heads, _ = states.shape
    half = cos.shape[1] // 2
    tile = row_tile(padded_size(half), PAIRS)
    if tokens * heads:
        rotary_kernel[(triton.cdiv(tokens * heads, tile.rows),)](
            states, cos, sin, *states.stride()[:2], cos.stride(0), sin.stride(0), heads, tokens * heads,
            half=half, ROWS=tile.rows, HALF=padded_size(half), num_warps=tile.warps, **COMPILER,
        )  # fmt: skip
    return states
