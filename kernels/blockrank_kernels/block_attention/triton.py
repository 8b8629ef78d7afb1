"""Block attention in Triton, forward and backward, on packed tokens.

The heads that share a key head are the rows of one tile: row ``r`` of a tile is token ``r // GROUP`` and query
head ``r % GROUP`` of the group. A tile goes through at most two ranges of the other side, of which only the one
inside its own segment can need a triangle. Tiles with a long range are split over several programs, whose
partial results are merged in a fixed order: no atomics, so two runs are equal. Softmax is kept online
(arXiv 1805.02867), gradients are recomputed from the log-sum-exp (arXiv 2307.08691).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from blockrank_kernels.arithmetic import dot, softcap_slope, softcapped
from blockrank_kernels.block_attention.tiles import Tiles, key_tiles, row_tiles
from blockrank_kernels.gpu import CAPABILITY, COMPILER
from blockrank_kernels.segments import Segments


class Launch(NamedTuple):
    """Tile sizes of one kernel: ``rows`` of the query side, ``keys`` of the key side, and the compiler's options."""

    rows: int
    keys: int
    warps: int
    stages: int


FULL_PRECISION = Launch(16, 16, 8, 1)
"""fp32 has no tensor cores without rounding to TF32; it is for checking results."""

MERGE_WARPS = 16
"""A merge holds a whole tile in fp32."""


@triton.jit
def _visible(tokens, row_places, keys, end, places, OWN: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """``[rows, keys]``: which keys of a range each row may see."""
    see = (keys < end)[None, :] & (tokens >= 0)[:, None]
    if OWN and CAUSAL:
        see = see & (keys[None, :] <= tokens[:, None])
    if WINDOW > 0:
        key_places = tl.load(places + keys, mask=keys < end, other=0)
        see = see & (tl.abs(row_places[:, None] - key_places[None, :]) < WINDOW)
    return see


@triton.jit
def _rows(start, end, head, places, GROUP: tl.constexpr, BLOCK: tl.constexpr, WINDOW: tl.constexpr):
    """Tokens ``[BLOCK]`` (-1 where the tile has no row), their query heads, validity, and positions."""
    rows = tl.arange(0, BLOCK)
    tokens = start + rows // GROUP
    valid = (tokens < end) & (rows < BLOCK // GROUP * GROUP)
    place = tl.zeros([BLOCK], dtype=tl.int64)
    if WINDOW > 0:
        place = tl.load(places + tokens, mask=valid, other=0)
    return tl.where(valid, tokens, -1), head * GROUP + rows % GROUP, valid, place


@triton.jit
def _load(base, tokens, heads, valid, token_stride, head_stride, dim, BLOCK: tl.constexpr):
    """``[rows, BLOCK]`` of a ``[T, H, dim]`` tensor; zeros where there is nothing."""
    columns = tl.arange(0, BLOCK)
    pointers = base + (tokens * token_stride + heads * head_stride)[:, None] + columns[None, :]
    return tl.load(pointers, mask=valid[:, None] & (columns < dim)[None, :], other=0.0)


@triton.jit
def _store(base, tokens, heads, valid, token_stride, head_stride, dim, values, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    pointers = base + (tokens * token_stride + heads * head_stride)[:, None] + columns[None, :]
    tl.store(pointers, values.to(base.dtype.element_ty), mask=valid[:, None] & (columns < dim)[None, :])


@triton.jit
def _attend(
    out, peak, total, q, tokens, row_places, start, end, head, K, V, k_token, k_head, v_token, v_head, places,
    scale, cap, dim, value_dim,
    OWN: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    KEYS: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Go through one range of keys."""
    for first in range(start, end, KEYS):
        keys = first + tl.arange(0, KEYS)
        k = _load(K, keys, head, keys < end, k_token, k_head, dim, DIM)
        logits = softcapped(dot(q, tl.trans(k)) * scale, cap, SOFTCAP)
        see = _visible(tokens, row_places, keys, end, places, OWN, CAUSAL, WINDOW)
        logits = tl.where(see, logits * 1.4426950408889634, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(logits, 1))
        # A row that has seen no key yet must not become inf - inf.
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weights = tl.exp2(logits - base[:, None])
        shrink = tl.exp2(peak - base)
        v = _load(V, keys, head, keys < end, v_token, v_head, value_dim, VALUE_DIM)
        out = out * shrink[:, None] + dot(weights.to(v.dtype), v)
        total = total * shrink + tl.sum(weights, 1)
        peak = new_peak
    return out, peak, total


@triton.jit
def _forward(
    Q, K, V, out, lse, items, places, q_token, q_head, k_token, k_head, v_token, v_head, tokens_in_all,
    scale, cap, dim, value_dim,
    GROUP: tl.constexpr, SPLIT: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """One tile of rows. Split: ``out`` ``[slots, Hk, ROWS, dim]`` and ``lse`` ``[slots, Hk, ROWS]`` in fp32."""
    item = items + tl.program_id(0).to(tl.int64) * 7
    head = tl.program_id(1).to(tl.int64)
    start, end = tl.load(item), tl.load(item + 1)
    tokens, heads, valid, row_places = _rows(start, end, head, places, GROUP, ROWS, WINDOW)
    q = _load(Q, tokens, heads, valid, q_token, q_head, dim, DIM)
    acc = tl.zeros([ROWS, VALUE_DIM], dtype=tl.float32)
    peak = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    acc, peak, total = _attend(
        acc, peak, total, q, tokens, row_places, tl.load(item + 2), tl.load(item + 3), head,
        K, V, k_token, k_head, v_token, v_head, places, scale, cap, dim, value_dim,
        False, CAUSAL, WINDOW, SOFTCAP, KEYS, DIM, VALUE_DIM,
    )  # fmt: skip
    acc, peak, total = _attend(
        acc, peak, total, q, tokens, row_places, tl.load(item + 4), tl.load(item + 5), head,
        K, V, k_token, k_head, v_token, v_head, places, scale, cap, dim, value_dim,
        True, CAUSAL, WINDOW, SOFTCAP, KEYS, DIM, VALUE_DIM,
    )  # fmt: skip
    acc = acc / tl.where(total == 0, 1.0, total)[:, None]
    row_lse = peak + tl.log2(total)
    if SPLIT:
        rows = tl.arange(0, ROWS)
        slot = tl.load(item + 6) * tl.num_programs(1) + head
        _store(out, slot * ROWS + rows, 0, valid, value_dim, 0, value_dim, acc, VALUE_DIM)
        tl.store(lse + slot * ROWS + rows, row_lse, mask=valid)
    else:
        all_heads = tl.num_programs(1) * GROUP
        _store(out, tokens, heads, valid, all_heads * value_dim, value_dim, value_dim, acc, VALUE_DIM)
        tl.store(lse + heads * tokens_in_all + tokens, row_lse, mask=valid)


@triton.jit
def _merge_softmax(
    partial, partial_lse, out, lse, merged, tokens_in_all, value_dim,
    GROUP: tl.constexpr, ROWS: tl.constexpr, VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Softmax over the union of the slots' keys."""
    tile = merged + tl.program_id(0).to(tl.int64) * 4
    head, key_heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    tokens, heads, valid, _ = _rows(tl.load(tile), tl.load(tile + 1), head, merged, GROUP, ROWS, 0)
    rows = tl.arange(0, ROWS)
    acc = tl.zeros([ROWS, VALUE_DIM], dtype=tl.float32)
    peak = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    first = tl.load(tile + 2)
    for slot in range(first, first + tl.load(tile + 3)):
        place = (slot * key_heads + head) * ROWS + rows
        part_lse = tl.load(partial_lse + place, mask=valid, other=float("-inf"))
        new_peak = tl.maximum(peak, part_lse)
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weight, shrink = tl.exp2(part_lse - base), tl.exp2(peak - base)
        acc = acc * shrink[:, None] + weight[:, None] * _load(
            partial, place, 0, valid, value_dim, 0, value_dim, VALUE_DIM
        )
        total = total * shrink + weight
        peak = new_peak
    acc = acc / tl.where(total == 0, 1.0, total)[:, None]
    all_heads = key_heads * GROUP
    _store(out, tokens, heads, valid, all_heads * value_dim, value_dim, value_dim, acc, VALUE_DIM)
    tl.store(lse + heads * tokens_in_all + tokens, peak + tl.log2(total), mask=valid)


@triton.jit
def _merge_sum(partial, out, merged, dim, GROUP: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr):
    """Sum over the slots, one after the other."""
    tile = merged + tl.program_id(0).to(tl.int64) * 4
    head, key_heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    tokens, heads, valid, _ = _rows(tl.load(tile), tl.load(tile + 1), head, merged, GROUP, ROWS, 0)
    acc = tl.zeros([ROWS, DIM], dtype=tl.float32)
    first = tl.load(tile + 2)
    for slot in range(first, first + tl.load(tile + 3)):
        acc += _load(partial, (slot * key_heads + head) * ROWS + tl.arange(0, ROWS), 0, valid, dim, 0, dim, DIM)
    _store(out, tokens, heads, valid, key_heads * GROUP * dim, dim, dim, acc, DIM)


@triton.jit
def _delta(grad, out, delta, tokens_in_all, value_dim, ROWS: tl.constexpr, VALUE_DIM: tl.constexpr):
    """``sum(grad * out)`` of every row, ``[Hq, T]``: what the softmax's gradient subtracts."""
    tokens = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    head, heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    valid = tokens < tokens_in_all
    g = _load(grad, tokens, head, valid, heads * value_dim, value_dim, value_dim, VALUE_DIM).to(tl.float32)
    o = _load(out, tokens, head, valid, heads * value_dim, value_dim, value_dim, VALUE_DIM).to(tl.float32)
    tl.store(delta + head * tokens_in_all + tokens, tl.sum(g * o, 1), mask=valid)


@triton.jit
def _attend_query_gradient(
    dq, q, g, row_lse, row_delta, tokens, row_places, start, end, head,
    K, V, k_token, k_head, v_token, v_head, places, scale, cap, dim, value_dim,
    OWN: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    KEYS: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
):  # fmt: skip
    for first in range(start, end, KEYS):
        keys = first + tl.arange(0, KEYS)
        k = _load(K, keys, head, keys < end, k_token, k_head, dim, DIM)
        v = _load(V, keys, head, keys < end, v_token, v_head, value_dim, VALUE_DIM)
        logits = softcapped(dot(q, tl.trans(k)) * scale, cap, SOFTCAP)
        see = _visible(tokens, row_places, keys, end, places, OWN, CAUSAL, WINDOW)
        weights = tl.where(see, tl.exp2(logits * 1.4426950408889634 - row_lse[:, None]), 0.0)
        d_weights = dot(g, tl.trans(v))
        d_logits = weights * (d_weights - row_delta[:, None]) * softcap_slope(logits, cap, SOFTCAP)
        dq += dot(d_logits.to(k.dtype), k)
    return dq


@triton.jit
def _query_gradient(
    Q, K, V, grad, lse, delta, dQ, items, places, q_token, q_head, k_token, k_head, v_token, v_head, tokens_in_all,
    scale, cap, dim, value_dim,
    GROUP: tl.constexpr, SPLIT: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Gradient of one tile of rows; split, a partial one in fp32."""
    item = items + tl.program_id(0).to(tl.int64) * 7
    head = tl.program_id(1).to(tl.int64)
    all_heads = tl.num_programs(1) * GROUP
    tokens, heads, valid, row_places = _rows(tl.load(item), tl.load(item + 1), head, places, GROUP, ROWS, WINDOW)
    q = _load(Q, tokens, heads, valid, q_token, q_head, dim, DIM)
    g = _load(grad, tokens, heads, valid, all_heads * value_dim, value_dim, value_dim, VALUE_DIM)
    row_lse = tl.load(lse + heads * tokens_in_all + tokens, mask=valid, other=0.0)
    row_delta = tl.load(delta + heads * tokens_in_all + tokens, mask=valid, other=0.0)
    dq = tl.zeros([ROWS, DIM], dtype=tl.float32)
    dq = _attend_query_gradient(
        dq, q, g, row_lse, row_delta, tokens, row_places, tl.load(item + 2), tl.load(item + 3), head,
        K, V, k_token, k_head, v_token, v_head, places, scale, cap, dim, value_dim,
        False, CAUSAL, WINDOW, SOFTCAP, KEYS, DIM, VALUE_DIM,
    )  # fmt: skip
    dq = _attend_query_gradient(
        dq, q, g, row_lse, row_delta, tokens, row_places, tl.load(item + 4), tl.load(item + 5), head,
        K, V, k_token, k_head, v_token, v_head, places, scale, cap, dim, value_dim,
        True, CAUSAL, WINDOW, SOFTCAP, KEYS, DIM, VALUE_DIM,
    )  # fmt: skip
    dq = dq * scale
    if SPLIT:
        slot = tl.load(item + 6) * tl.num_programs(1) + head
        _store(dQ, slot * ROWS + tl.arange(0, ROWS), 0, valid, dim, 0, dim, dq, DIM)
    else:
        _store(dQ, tokens, heads, valid, all_heads * dim, dim, dim, dq, DIM)


@triton.jit
def _attend_key_gradient(
    dk, dv, k, v, keys, key_places, key_end, start, end, head, all_heads,
    Q, grad, lse, delta, q_token, q_head, places, tokens_in_all, scale, cap, dim, value_dim,
    OWN: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, GROUP: tl.constexpr,
    ROWS: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Go through one range of rows."""
    for first in range(start, end, ROWS // GROUP):
        tokens, heads, valid, row_places = _rows(first, end, head, places, GROUP, ROWS, WINDOW)
        q = _load(Q, tokens, heads, valid, q_token, q_head, dim, DIM)
        g = _load(grad, tokens, heads, valid, all_heads * value_dim, value_dim, value_dim, VALUE_DIM)
        row_lse = tl.load(lse + heads * tokens_in_all + tokens, mask=valid, other=0.0)
        row_delta = tl.load(delta + heads * tokens_in_all + tokens, mask=valid, other=0.0)
        logits = softcapped(dot(k, tl.trans(q)) * scale, cap, SOFTCAP)
        see = (keys < key_end)[:, None] & valid[None, :]
        if OWN and CAUSAL:
            see = see & (keys[:, None] <= tokens[None, :])
        if WINDOW > 0:
            see = see & (tl.abs(key_places[:, None] - row_places[None, :]) < WINDOW)
        weights = tl.where(see, tl.exp2(logits * 1.4426950408889634 - row_lse[None, :]), 0.0)
        dv += dot(weights.to(g.dtype), g)
        d_weights = dot(v, tl.trans(g))
        d_logits = weights * (d_weights - row_delta[None, :]) * softcap_slope(logits, cap, SOFTCAP)
        dk += dot(d_logits.to(q.dtype), q)
    return dk, dv


@triton.jit
def _key_gradient(
    Q, K, V, grad, lse, delta, dK, dV, items, places, q_token, q_head, k_token, k_head, v_token, v_head,
    tokens_in_all, scale, cap, dim, value_dim,
    GROUP: tl.constexpr, SPLIT: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Gradients of one tile of keys and values; split, partial ones in fp32."""
    item = items + tl.program_id(0).to(tl.int64) * 7
    head, key_heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    end = tl.load(item + 1)
    keys = tl.load(item) + tl.arange(0, KEYS)
    valid = keys < end
    key_places = tl.zeros([KEYS], dtype=tl.int64)
    if WINDOW > 0:
        key_places = tl.load(places + keys, mask=valid, other=0)
    k = _load(K, keys, head, valid, k_token, k_head, dim, DIM)
    v = _load(V, keys, head, valid, v_token, v_head, value_dim, VALUE_DIM)
    dk = tl.zeros([KEYS, DIM], dtype=tl.float32)
    dv = tl.zeros([KEYS, VALUE_DIM], dtype=tl.float32)
    dk, dv = _attend_key_gradient(
        dk, dv, k, v, keys, key_places, end, tl.load(item + 2), tl.load(item + 3), head, key_heads * GROUP,
        Q, grad, lse, delta, q_token, q_head, places, tokens_in_all, scale, cap, dim, value_dim,
        False, CAUSAL, WINDOW, SOFTCAP, GROUP, ROWS, DIM, VALUE_DIM,
    )  # fmt: skip
    dk, dv = _attend_key_gradient(
        dk, dv, k, v, keys, key_places, end, tl.load(item + 4), tl.load(item + 5), head, key_heads * GROUP,
        Q, grad, lse, delta, q_token, q_head, places, tokens_in_all, scale, cap, dim, value_dim,
        True, CAUSAL, WINDOW, SOFTCAP, GROUP, ROWS, DIM, VALUE_DIM,
    )  # fmt: skip
    dk = dk * scale
    if SPLIT:
        place = (tl.load(item + 6) * key_heads + head) * KEYS + tl.arange(0, KEYS)
        _store(dK, place, 0, valid, dim, 0, dim, dk, DIM)
        _store(dV, place, 0, valid, value_dim, 0, value_dim, dv, VALUE_DIM)
    else:
        _store(dK, keys, head, valid, key_heads * dim, dim, dim, dk, DIM)
        _store(dV, keys, head, valid, key_heads * value_dim, value_dim, value_dim, dv, VALUE_DIM)


def forward_launch(dim: int, dtype: torch.dtype, capability: int) -> Launch:
    """Tile sizes of the forward pass, on a GPU of compute capability 80, 90, ….

    All are chosen so that nothing spills: benchmarks/compile_kernels.py.
    """
    if dtype == torch.float32:
        return FULL_PRECISION
    if dim > 128:
        return Launch(64, 32, 8, 2)
    # Registers hold both sides of every product, but on Hopper and on Blackwell for data centres (not sm_120).
    crowded = dim == 128 and capability // 10 not in (9, 10)
    return Launch(128, 32 if crowded else 64, 8, 2)


def query_gradient_launch(dim: int, dtype: torch.dtype, softcap: bool) -> Launch:
    """Tile sizes of the query's gradient; soft-capping needs registers of its own."""
    if dtype == torch.float32:
        return FULL_PRECISION
    return Launch(64, 32 if softcap else 64, 8, 2) if dim <= 128 else Launch(32, 32, 4, 1)


def key_gradient_launch(dim: int, dtype: torch.dtype, softcap: bool) -> Launch:
    """Tile sizes of the gradients of keys and values; soft-capping needs registers of its own."""
    if dtype == torch.float32:
        return FULL_PRECISION if dim <= 128 else FULL_PRECISION._replace(warps=16)
    if dim > 128:
        return Launch(32, 32, 8, 1)
    rows = 64 if dim <= 32 else 32
    return Launch(rows // 2 if softcap and dim < 128 else rows, 64, 8, 2)


def for_group(launch: Launch, group: int) -> Launch:
    """A group of heads that is larger than a tile's rows gets taller tiles."""
    return launch._replace(rows=max(launch.rows, _power_of_two(group)))


class _Problem:
    """What all launches of one call share."""

    def __init__(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, causal: bool, scale: float,
        softcap: float | None, window: int | None,
    ) -> None:  # fmt: skip
        self.query, self.key, self.value = (_rows_contiguous(tensor) for tensor in (query, key, value))
        self.segments, self.causal, self.scale = segments, causal, scale
        self.softcap, self.window = softcap, window
        self.tokens, self.heads, self.dim = query.shape
        self.key_heads, self.value_dim = value.shape[1:]
        self.group = self.heads // self.key_heads
        self.padded = _power_of_two(max(self.dim, self.value_dim))

    def launch(self, choose: Any, by: int | bool) -> Launch:
        return for_group(choose(self.padded, self.query.dtype, by), self.group)

    def capability(self) -> int:
        device = self.query.device
        major, minor = torch.cuda.get_device_capability(device) if device.type == "cuda" else CAPABILITY
        return 10 * major + minor

    def strides(self) -> tuple[int, ...]:
        return tuple(stride for tensor in (self.query, self.key, self.value) for stride in tensor.stride()[:2])

    def numbers(self) -> tuple[float, float, int, int]:
        return self.scale, self.softcap or 1.0, self.dim, self.value_dim

    def constants(self, launch: Launch, split: bool) -> dict[str, Any]:
        return {
            "GROUP": self.group,
            "SPLIT": split,
            "CAUSAL": self.causal,
            "WINDOW": self.window or 0,
            "SOFTCAP": self.softcap is not None,
            "ROWS": launch.rows,
            "KEYS": launch.keys,
            "DIM": _power_of_two(self.dim),
            "VALUE_DIM": _power_of_two(self.value_dim),
            "num_warps": launch.warps,
            "num_stages": launch.stages,
        } | COMPILER

    def places(self) -> Tensor:
        plans, name = self.segments.plans, ("places", self.query.device)
        if name not in plans:
            plans[name] = self.segments.positions.to(self.query.device)
        return plans[name]

    def tiles(self, make: Any, size: int) -> Tiles:
        plans, name = self.segments.plans, (make.__name__, self.causal, size, self.query.device)
        if name not in plans:
            plans[name] = make(self.segments, self.causal, size, self.query.device)
        return plans[name]

    def forward(self) -> tuple[Tensor, Tensor]:
        """Output ``[T, Hq, Dv]`` and log2-sum-exp2 ``[Hq, T]``."""
        launch = self.launch(forward_launch, self.capability())
        tiles = self.tiles(row_tiles, launch.rows // self.group)
        out = self.query.new_empty(self.tokens, self.heads, self.value_dim)
        lse = self.query.new_empty(self.heads, self.tokens, dtype=torch.float32)
        if len(tiles.whole):
            self._forward(tiles.whole, out, lse, launch, split=False)
        if len(tiles.split):
            partial = self._slots(tiles, launch.rows, self.value_dim)
            partial_lse = self._slots(tiles, launch.rows)
            self._forward(tiles.split, partial, partial_lse, launch, split=True)
            _merge_softmax[(len(tiles.merged), self.key_heads)](
                partial, partial_lse, out, lse, tiles.merged, self.tokens, self.value_dim, GROUP=self.group,
                ROWS=launch.rows, VALUE_DIM=_power_of_two(self.value_dim), num_warps=MERGE_WARPS,
                **COMPILER,
            )  # fmt: skip
        return out, lse

    def _forward(self, items: Tensor, out: Tensor, lse: Tensor, launch: Launch, split: bool) -> None:
        _forward[(len(items), self.key_heads)](
            self.query, self.key, self.value, out, lse, items, self.places(), *self.strides(), self.tokens,
            *self.numbers(), **self.constants(launch, split),
        )  # fmt: skip

    def backward(self, out: Tensor, lse: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value."""
        grad = grad.contiguous()
        delta = lse.new_empty(lse.shape)
        _delta[(triton.cdiv(self.tokens, 64), self.heads)](
            grad, out, delta, self.tokens, self.value_dim, ROWS=64, VALUE_DIM=_power_of_two(self.value_dim), **COMPILER
        )
        return self._query_gradient(grad, lse, delta), *self._key_gradients(grad, lse, delta)

    def _query_gradient(self, grad: Tensor, lse: Tensor, delta: Tensor) -> Tensor:
        launch = self.launch(query_gradient_launch, self.softcap is not None)
        tiles = self.tiles(row_tiles, launch.rows // self.group)
        gradient = self.query.new_empty(self.query.shape)

        def run(items: Tensor, target: Tensor, split: bool) -> None:
            _query_gradient[(len(items), self.key_heads)](
                self.query, self.key, self.value, grad, lse, delta, target, items, self.places(), *self.strides(),
                self.tokens, *self.numbers(), **self.constants(launch, split),
            )  # fmt: skip

        if len(tiles.whole):
            run(tiles.whole, gradient, False)
        if len(tiles.split):
            partial = self._slots(tiles, launch.rows, self.dim)
            run(tiles.split, partial, True)
            self._merge_sum(partial, gradient, tiles, launch.rows, self.group)
        return gradient

    def _key_gradients(self, grad: Tensor, lse: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        launch = self.launch(key_gradient_launch, self.softcap is not None)
        tiles = self.tiles(key_tiles, launch.keys)
        gradients = self.key.new_empty(self.key.shape), self.value.new_empty(self.value.shape)

        def run(items: Tensor, targets: tuple[Tensor, Tensor], split: bool) -> None:
            _key_gradient[(len(items), self.key_heads)](
                self.query, self.key, self.value, grad, lse, delta, *targets, items, self.places(),
                *self.strides(), self.tokens, *self.numbers(), **self.constants(launch, split),
            )  # fmt: skip

        if len(tiles.whole):
            run(tiles.whole, gradients, False)
        if len(tiles.split):
            partials = self._slots(tiles, launch.keys, self.dim), self._slots(tiles, launch.keys, self.value_dim)
            run(tiles.split, partials, True)
            for partial, gradient in zip(partials, gradients, strict=True):
                self._merge_sum(partial, gradient, tiles, launch.keys, 1)
        return gradients

    def _merge_sum(self, partial: Tensor, out: Tensor, tiles: Tiles, rows: int, group: int) -> None:
        dim = out.shape[-1]
        _merge_sum[(len(tiles.merged), self.key_heads)](
            partial, out, tiles.merged, dim, GROUP=group, ROWS=rows, DIM=_power_of_two(dim), num_warps=MERGE_WARPS,
            **COMPILER,
        )  # fmt: skip

    def _slots(self, tiles: Tiles, *shape: int) -> Tensor:
        return self.query.new_empty(len(tiles.split), self.key_heads, *shape, dtype=torch.float32)


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, *settings: Any) -> Tensor:
        problem = _Problem(query, key, value, *settings)
        out, lse = problem.forward()
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.settings = settings
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        gradients = _Problem(query, key, value, *ctx.settings).backward(out, lse, grads[0])
        return *gradients, *(None for _ in ctx.settings)


def block_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    causal: bool,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """Block attention on a GPU; see :func:`blockrank_kernels.block_attention`."""
    return _BlockAttention.apply(query, key, value, segments, causal, scale, softcap, window)


def _rows_contiguous(tensor: Tensor) -> Tensor:
    """Kernels take any order of tokens and heads, but a head's numbers must lie side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _power_of_two(size: int) -> int:
    """The next power of two that ``tl.dot`` takes."""
    return max(16, triton.next_power_of_2(size))
