"""The forward kernels: attention of one tile of rows, and the softmax over the parts of a tile that was split."""

from __future__ import annotations

import triton
import triton.language as tl

from blockrank_kernels.arithmetic import LOG2_E, dot, softcapped
from blockrank_kernels.block_attention.triton.tile_code import load_keys, load_rows, store_rows, tile_rows


@triton.jit
def _attend_keys(
    out, peak, total, q, tokens, row_positions, first, end, K, V, k_token, v_token, positions, factor, cap,
    FULL: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    dim: tl.constexpr, value_dim: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Attend to one tile of keys, by an online softmax; without a mask where every row sees all of it."""
    k = load_keys(K, first, end, k_token, dim, KEYS, DIM, FULL)
    logits = dot(q, tl.trans(k)) * factor
    if SOFTCAP:
        logits = softcapped(logits, cap, SOFTCAP) * LOG2_E
    if not FULL:
        steps = tl.arange(0, KEYS)
        seen = (steps < (end - first).to(tl.int32))[None, :]
        if CAUSAL:
            # A context lies before its rows.
            seen = seen & (steps[None, :] <= (tokens - first).to(tl.int32)[:, None])
        if WINDOW > 0:
            key_positions = tl.load(positions + first + steps, mask=first + steps < end, other=0)
            seen = seen & (tl.abs(row_positions[:, None] - key_positions[None, :]) < WINDOW)
        logits = tl.where(seen, logits, float("-inf"))
    new_peak = tl.maximum(peak, tl.max(logits, 1))
    # A row that has seen no key yet must not become inf - inf.
    base = new_peak if FULL else tl.where(new_peak == float("-inf"), 0.0, new_peak)
    weights = tl.exp2(logits - base[:, None])
    shrink = tl.exp2(peak - base)
    v = load_keys(V, first, end, v_token, value_dim, KEYS, VALUE_DIM, FULL)
    out = out * shrink[:, None] + dot(weights.to(v.dtype), v)
    total = total * shrink + tl.sum(weights, 1)
    return out, new_peak, total


@triton.jit(do_not_specialize=["rows_in_all", "first_row", "first_key"])
def forward_kernel(
    Q, K, V, out, lse, items, positions, q_token, q_head, k_token, k_head, v_token, v_head,
    rows_in_all, first_row, first_key, factor, cap,
    dim: tl.constexpr, value_dim: tl.constexpr,
    GROUP: tl.constexpr, SPLIT: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Write the output and log2-sum-exp2 of one tile of rows.

    ``Q`` begins with token ``first_row``, ``K`` and ``V`` with token ``first_key``. ``factor`` is the scale, times
    log2(e) unless logits are soft-capped. Split: ``out`` ``[slots, Hk, ROWS, dim]`` and ``lse`` ``[slots, Hk, ROWS]``,
    in fp32.
    """
    item = items + tl.program_id(0).to(tl.int64) * 8
    head = tl.program_id(1).to(tl.int64)
    start, end = tl.load(item), tl.load(item + 1)
    context, context_end = tl.load(item + 2), tl.load(item + 3)
    own, own_end = tl.load(item + 4), tl.load(item + 5)
    tokens, heads, valid, row_positions = tile_rows(start, end, head, positions, GROUP, ROWS, WINDOW)
    q = load_rows(Q, tokens - first_row, heads, valid, q_token, q_head, dim, DIM)
    K += head * k_head - first_key.to(tl.int64) * k_token
    V += head * v_head - first_key.to(tl.int64) * v_token
    acc = tl.zeros([ROWS, VALUE_DIM], dtype=tl.float32)
    peak = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    full_context, full_own = tl.zeros([], dtype=tl.int64), tl.zeros([], dtype=tl.int64)
    if WINDOW == 0:
        full_context = (context_end - context) // KEYS
        # Every row of a tile sees what its first row sees.
        full_own = tl.maximum((tl.minimum(own_end, start + 1) if CAUSAL else own_end) - own, 0) // KEYS
    for tile in range(0, full_context + full_own):
        first = tl.where(tile < full_context, context + tile * KEYS, own + (tile - full_context) * KEYS)
        acc, peak, total = _attend_keys(
            acc, peak, total, q, tokens, row_positions, first, 0, K, V, k_token, v_token, positions, factor, cap,
            True, CAUSAL, WINDOW, SOFTCAP, dim, value_dim, KEYS, DIM, VALUE_DIM,
        )  # fmt: skip
    context += full_context * KEYS
    own += full_own * KEYS
    rest_context = tl.cdiv(context_end - context, KEYS)
    for tile in range(0, rest_context + tl.cdiv(own_end - own, KEYS)):
        in_context = tile < rest_context
        first = tl.where(in_context, context + tile * KEYS, own + (tile - rest_context) * KEYS)
        acc, peak, total = _attend_keys(
            acc, peak, total, q, tokens, row_positions, first, tl.where(in_context, context_end, own_end),
            K, V, k_token, v_token, positions, factor, cap,
            False, CAUSAL, WINDOW, SOFTCAP, dim, value_dim, KEYS, DIM, VALUE_DIM,
        )  # fmt: skip
    acc = acc / tl.where(total == 0, 1.0, total)[:, None]
    row_lse = peak + tl.log2(total)
    if SPLIT:
        rows = tl.arange(0, ROWS)
        slot = tl.load(item + 6) * tl.num_programs(1) + head
        store_rows(out, slot * ROWS + rows, 0, valid, value_dim, 0, value_dim, acc, VALUE_DIM)
        tl.store(lse + slot * ROWS + rows, row_lse, mask=valid)
    else:
        all_heads = tl.num_programs(1) * GROUP
        rows = tokens - first_row
        store_rows(out, rows, heads, valid, all_heads * value_dim, value_dim, value_dim, acc, VALUE_DIM)
        tl.store(lse + heads * rows_in_all + rows, row_lse, mask=valid)


@triton.jit(do_not_specialize=["rows_in_all"])
def merge_softmax_kernel(
    partial, partial_lse, out, lse, merged, rows_in_all, value_dim: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Merge the slots of one tile into the softmax over all of their keys."""
    tile = merged + tl.program_id(0).to(tl.int64) * 4
    head, key_heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    tokens, heads, valid, _ = tile_rows(tl.load(tile), tl.load(tile + 1), head, merged, GROUP, ROWS, 0)
    rows = tl.arange(0, ROWS)
    acc = tl.zeros([ROWS, VALUE_DIM], dtype=tl.float32)
    peak = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    first = tl.load(tile + 2)
    for slot in range(first, first + tl.load(tile + 3)):
        slot_rows = (slot * key_heads + head) * ROWS + rows
        part_lse = tl.load(partial_lse + slot_rows, mask=valid, other=float("-inf"))
        new_peak = tl.maximum(peak, part_lse)
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weight, shrink = tl.exp2(part_lse - base), tl.exp2(peak - base)
        acc = acc * shrink[:, None] + weight[:, None] * load_rows(
            partial, slot_rows, 0, valid, value_dim, 0, value_dim, VALUE_DIM
        )
        total = total * shrink + weight
        peak = new_peak
    acc = acc / tl.where(total == 0, 1.0, total)[:, None]
    all_heads = key_heads * GROUP
    store_rows(out, tokens, heads, valid, all_heads * value_dim, value_dim, value_dim, acc, VALUE_DIM)
    tl.store(lse + heads * rows_in_all + tokens, peak + tl.log2(total), mask=valid)
