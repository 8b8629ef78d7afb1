"""Root-mean-square normalisation in Triton: a row is read once, with its residual, and written once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from blockrank_kernels.gpu import COMPILER, padded_size, row_tile, with_row_strides

NUMBERS = 4096
"""Numbers that one program takes, where a row has no more: each of 128 threads has 32 of a row."""


@triton.jit(do_not_specialize=["rows_in_all"])
def rms_norm_kernel(
    states, residual, weight, out, total, states_token, states_head, residual_token, residual_head, heads,
    rows_in_all, eps, offset, width: tl.constexpr, RESIDUAL: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Normalise rows; ``out`` and ``total`` are ``[rows, width]``, and row ``r`` is head ``r % heads`` of a token."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    inside = columns < width
    valid = (rows < rows_in_all)[:, None] & inside[None, :]
    # Divided in 32 bits, multiplied in 64.
    token, head = (rows // heads).to(tl.int64), (rows % heads).to(tl.int64)
    own = (rows.to(tl.int64) * width)[:, None] + columns[None, :]
    x = tl.load(states + (token * states_token + head * states_head)[:, None] + columns[None, :], mask=valid, other=0.0)
    x = x.to(tl.float32)
    if RESIDUAL:
        pointers = residual + (token * residual_token + head * residual_head)[:, None] + columns[None, :]
        rounded = (x + tl.load(pointers, mask=valid, other=0.0).to(tl.float32)).to(total.dtype.element_ty)
        tl.store(total + own, rounded, mask=valid)
        x = rounded.to(tl.float32)
    scale = 1 / tl.sqrt(tl.sum(x * x, 1) / width + eps)
    factor = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32) + offset
    tl.store(out + own, (x * scale[:, None] * factor[None, :]).to(out.dtype.element_ty), mask=valid)


def rms_norm(
    states: Tensor, weight: Tensor, eps: float, offset: float, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Normalise rows on a GPU; see :func:`blockrank_kernels.rms_norm`."""
    width = states.shape[-1]
    read, *strides, heads = with_row_strides(states)
    # Without a residual there is none to read, and no sum to write.
    added, *added_strides, _ = with_row_strides(states if residual is None else residual)
    out = states.new_empty(states.shape)
    total = states if residual is None else states.new_empty(states.shape)
    rows = states.numel() // width
    tile = row_tile(padded_size(width), NUMBERS)
    if rows:
        rms_norm_kernel[(triton.cdiv(rows, tile.rows),)](
            read, added, weight.contiguous(), out, total, *strides, *added_strides, heads, rows, eps, offset,
            width=width, RESIDUAL=residual is not None, ROWS=tile.rows, WIDTH=padded_size(width),
            num_warps=tile.warps, **COMPILER,
        )  # fmt: skip
    return out, total
