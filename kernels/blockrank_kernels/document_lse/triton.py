"""Log-sum-exps of documents in Triton, forward and backward: no logit is ever written to memory.

The signal tokens' heads that share a key head are the rows of one tile, ``[S * Hq / Hk, D]``. A head dimension that
is too wide for one tile is taken in slices. The query's gradient is summed over chunks of documents in a fixed order.
There are no atomics, so two runs are equal.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from blockrank_kernels.arithmetic import LN_2, LOG2_E, dot, dot_split, softcap_slope, softcapped
from blockrank_kernels.gpu import COMPILER, MAX_HEAD_DIM, padded_size, upload

DOCUMENTS_PER_CHUNK = 16
"""Documents that one program of the query's gradient goes through."""

SLICE = 128
"""Numbers of a head that are multiplied at a time where a tile does not hold all of them."""


def slice_size(dim: int) -> int:
    """Return how many numbers of a head are multiplied at a time: all of them where they fit."""
    return padded_size(dim) if dim <= MAX_HEAD_DIM else SLICE


def launch_options(dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Return tile sizes and compiler options with which no kernel spills (benchmarks/compile_kernels.py)."""
    if dtype == torch.float32:
        return {"ROWS": 16, "KEYS": 16, "num_warps": 4, "num_stages": 1}
    if dim > 128:
        return {"ROWS": 16, "KEYS": 32, "num_warps": 4, "num_stages": 3}
    return {"ROWS": 32, "KEYS": 64, "num_warps": 4, "num_stages": 3}


@triton.jit
def _load_rows(base, rows, valid, stride, start, dim: tl.constexpr, DIM: tl.constexpr):
    """Load columns ``[start, start + DIM)`` of a ``[T, dim]`` tensor's rows; zeros where there is nothing."""
    columns = start + tl.arange(0, DIM)
    pointers = base + (rows * stride)[:, None] + columns[None, :]
    return tl.load(pointers, mask=valid[:, None] & (columns < dim)[None, :], other=0.0)


@triton.jit
def _products(q, k, Q, K, rows, valid, keys, end, k_token, dim: tl.constexpr, DIM: tl.constexpr):
    """Return ``[rows, keys]`` products; ``q`` and ``k`` are the first slice of both sides, the others are loaded."""
    products = dot(q, tl.trans(k))
    if dim > DIM:
        for start in range(DIM, dim, DIM):
            q_slice = _load_rows(Q, rows, valid, dim, start, dim, DIM)
            k_slice = _load_rows(K, keys, keys < end, k_token, start, dim, DIM)
            products += dot(q_slice, tl.trans(k_slice))
    return products


@triton.jit
def _logit_gradient(logits, lse, grad, seen, cap, SOFTCAP: tl.constexpr):
    """Return the gradient of logits: the softmax inside the document times the gradient of its log-sum-exp."""
    weights = tl.where(seen, tl.exp2((logits - lse) * LOG2_E), 0.0)
    return weights * grad * softcap_slope(logits, cap, SOFTCAP)


@triton.jit(do_not_specialize=["count", "documents"])
def forward_kernel(
    Q, K, lse, offsets, k_token, k_head, count, documents, scale, cap, dim: tl.constexpr,
    SOFTCAP: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Write one document's log-sum-exps: ``Q`` ``[Hk, count, dim]``, ``lse`` ``[Hk, count, documents]``."""
    document, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    rows = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    valid = rows < count
    Q += head * count * dim
    K += head * k_head
    q = _load_rows(Q, rows, valid, dim, 0, dim, DIM)
    peak = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    end = tl.load(offsets + document + 1)
    for first in range(tl.load(offsets + document), end, KEYS):
        keys = first + tl.arange(0, KEYS)
        k = _load_rows(K, keys, keys < end, k_token, 0, dim, DIM)
        products = _products(q, k, Q, K, rows, valid, keys, end, k_token, dim, DIM)
        logits = softcapped(products * scale, cap, SOFTCAP) * LOG2_E
        logits = tl.where((keys < end)[None, :], logits, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(logits, 1))
        total = total * tl.exp2(peak - new_peak) + tl.sum(tl.exp2(logits - new_peak[:, None]), 1)
        peak = new_peak
    result = (peak + tl.log2(total)) * LN_2
    tl.store(lse + (head * count + rows) * documents + document, result, mask=valid)


@triton.jit(do_not_specialize=["count", "documents"])
def key_gradient_kernel(
    Q, K, lse, grad, dK, offsets, k_token, k_head, count, documents, scale, cap, dim: tl.constexpr,
    SOFTCAP: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a slice of one document's keys, ``dK`` ``[T, Hk, dim]``."""
    document, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    column = tl.program_id(2) * DIM
    heads = tl.num_programs(1)
    Q += head * count * dim
    K += head * k_head
    end = tl.load(offsets + document + 1)
    columns = column + tl.arange(0, DIM)
    for first in range(tl.load(offsets + document), end, KEYS):
        keys = first + tl.arange(0, KEYS)
        k = _load_rows(K, keys, keys < end, k_token, 0, dim, DIM)
        dk = tl.zeros([KEYS, DIM], dtype=tl.float32)
        for start in range(0, count, ROWS):
            rows = start + tl.arange(0, ROWS)
            valid = rows < count
            q = _load_rows(Q, rows, valid, dim, 0, dim, DIM)
            row_entries = (head * count + rows) * documents + document
            row_lse = tl.load(lse + row_entries, mask=valid, other=0.0)
            row_grad = tl.load(grad + row_entries, mask=valid, other=0.0)
            products = _products(q, k, Q, K, rows, valid, keys, end, k_token, dim, DIM)
            logits = softcapped(products * scale, cap, SOFTCAP)
            seen = valid[:, None] & (keys < end)[None, :]
            d_logits = _logit_gradient(logits, row_lse[:, None], row_grad[:, None], seen, cap, SOFTCAP)
            if dim > DIM:
                q = _load_rows(Q, rows, valid, dim, column, dim, DIM)
            dk += dot_split(tl.trans(d_logits), q)
        pointers = dK + ((keys * heads + head) * dim)[:, None] + columns[None, :]
        tl.store(pointers, (dk * scale).to(dK.dtype.element_ty), mask=(keys < end)[:, None] & (columns < dim)[None, :])


@triton.jit(do_not_specialize=["count", "documents"])
def query_gradient_kernel(
    Q, K, lse, grad, partial, offsets, k_token, k_head, count, documents, scale, cap, dim: tl.constexpr,
    SOFTCAP: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Write one chunk of documents' part of a tile of rows' gradient, ``partial`` ``[chunks, Hk, count, dim]``."""
    chunk, head, heads = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    slices = tl.cdiv(dim, DIM)
    rows = tl.program_id(2) // slices * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(2) % slices * DIM
    valid = rows < count
    K += head * k_head
    Q += head * count * dim
    q = _load_rows(Q, rows, valid, dim, 0, dim, DIM)
    dq = tl.zeros([ROWS, DIM], dtype=tl.float32)
    for document in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, documents)):
        row_entries = (head * count + rows) * documents + document
        row_lse = tl.load(lse + row_entries, mask=valid, other=0.0)
        row_grad = tl.load(grad + row_entries, mask=valid, other=0.0)
        end = tl.load(offsets + document + 1)
        for first in range(tl.load(offsets + document), end, KEYS):
            keys = first + tl.arange(0, KEYS)
            k = _load_rows(K, keys, keys < end, k_token, 0, dim, DIM)
            products = _products(q, k, Q, K, rows, valid, keys, end, k_token, dim, DIM)
            logits = softcapped(products * scale, cap, SOFTCAP)
            seen = valid[:, None] & (keys < end)[None, :]
            d_logits = _logit_gradient(logits, row_lse[:, None], row_grad[:, None], seen, cap, SOFTCAP)
            if dim > DIM:
                k = _load_rows(K, keys, keys < end, k_token, column, dim, DIM)
            dq += dot_split(d_logits, k)
    columns = column + tl.arange(0, DIM)
    pointers = partial + (((chunk * heads + head) * count + rows) * dim)[:, None] + columns[None, :]
    tl.store(pointers, dq * scale, mask=valid[:, None] & (columns < dim)[None, :])


class _DocumentLse(torch.autograd.Function):
    """Log-sum-exps ``[Hk, count, N]`` of rows ``[Hk, count, D]`` and keys ``[T, Hk, D]``, differentiable once."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, key: Tensor, offsets: Tensor, scale: float, softcap: float | None) -> Tensor:
        heads, count, dim = rows.shape
        documents = len(offsets) - 1
        lse = rows.new_empty(heads, count, documents, dtype=torch.float32)
        ctx.scalars = (key.stride(0), key.stride(1), count, documents, scale, softcap or 1.0)
        size = slice_size(dim)
        ctx.constants = {"dim": dim, "SOFTCAP": softcap is not None, "DIM": size}
        ctx.constants |= launch_options(size, key.dtype) | COMPILER
        ctx.save_for_backward(rows, key, offsets, lse)
        forward_kernel[(documents, heads, triton.cdiv(count, ctx.constants["ROWS"]))](
            rows, key, lse, offsets, *ctx.scalars, **ctx.constants
        )
        return lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, key, offsets, lse = ctx.saved_tensors
        heads, count, dim = rows.shape
        documents, grad = lse.shape[-1], grads[0].contiguous()
        # Keys outside the documents have no part in the log-sum-exps.
        key_gradient = key.new_zeros(key.shape)
        chunks = triton.cdiv(documents, DOCUMENTS_PER_CHUNK)
        partial = rows.new_empty(chunks, heads, count, dim, dtype=torch.float32)
        inputs = (rows, key, lse, grad)
        slices = triton.cdiv(dim, ctx.constants["DIM"])
        key_gradient_kernel[(documents, heads, slices)](*inputs, key_gradient, offsets, *ctx.scalars, **ctx.constants)
        query_gradient_kernel[(chunks, heads, triton.cdiv(count, ctx.constants["ROWS"]) * slices)](
            *inputs, partial, offsets, *ctx.scalars, CHUNK=DOCUMENTS_PER_CHUNK, **ctx.constants
        )
        return partial.sum(0).to(rows.dtype), key_gradient, None, None, None


def document_lse(query: Tensor, key: Tensor, offsets: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Return the log-sum-exp of each document on a GPU; see :func:`blockrank_kernels.document_lse`."""
    signals, heads, dim = query.shape
    group = heads // key.shape[1]
    rows = query.view(signals, -1, group, dim).permute(1, 0, 2, 3).reshape(-1, signals * group, dim)
    # With one query head for each key head the reshape is a view whose rows lie apart.
    rows = rows.contiguous()
    key = key if key.stride(-1) == 1 else key.contiguous()
    lse: Tensor = _DocumentLse.apply(rows, key, upload(offsets, query.device), scale, softcap)
    return lse.view(-1, signals, group, lse.shape[-1]).transpose(0, 1).flatten(1, 2)
