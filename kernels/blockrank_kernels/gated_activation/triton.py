"""Gated activation in Triton: both halves of a row are read once, and their product is written once."""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from blockrank_kernels.gpu import COMPILER, padded_size, row_tile

COLUMNS = 1024
"""Most numbers of a row that one program takes."""

GELU_SLOPE = tl.constexpr(2 * math.sqrt(2 / math.pi))
"""Twice the factor of the hyperbolic tangent in GELU's approximation (arXiv 1606.08415)."""

NUMBERS = 2048
"""Numbers that one program writes: each of 128 threads has 16, of gate and rest each."""


@triton.jit(do_not_specialize=["rows_in_all"])
def gated_activation_kernel(
    states, out, states_token, rows_in_all,
    width: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write a tile of ``out`` ``[rows, width]`` from ``states`` ``[rows, 2 width]``."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    valid = (rows < rows_in_all)[:, None] & (columns < width)[None, :]
    pointers = states + (rows * states_token)[:, None] + columns[None, :]
    gate = tl.load(pointers, mask=valid, other=0.0).to(tl.float32)
    rest = tl.load(pointers + width, mask=valid, other=0.0).to(tl.float32)
    # Both activations are x sigmoid(slope(x)), for 1 + tanh(u) is 2 sigmoid(2 u).
    slope = gate if SILU else GELU_SLOPE * (gate + 0.044715 * gate * gate * gate)
    product = gate * tl.sigmoid(slope) * rest
    tl.store(out + (rows * width)[:, None] + columns[None, :], product.to(out.dtype.element_ty), mask=valid)


def gated_activation(states: Tensor, activation: str) -> Tensor:
    """Activate and multiply on a GPU; see :func:`blockrank_kernels.gated_activation`."""
    states = states if states.stride(-1) == 1 else states.contiguous()
    rows, width = len(states), states.shape[1] // 2
    out = states.new_empty(rows, width)
    columns = min(padded_size(width), COLUMNS)
    tile = row_tile(columns, NUMBERS)
    if rows * width:
        gated_activation_kernel[(triton.cdiv(rows, tile.rows), triton.cdiv(width, columns))](
            states, out, states.stride(0), rows, width=width, SILU=activation == "silu", ROWS=tile.rows,
            COLUMNS=columns, num_warps=tile.warps, **COMPILER,
        )  # fmt: skip
    return out
