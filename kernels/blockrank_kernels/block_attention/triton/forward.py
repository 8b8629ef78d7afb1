"""The forward kernels: attention of one tile of rows, and the softmax over the parts of a tile that was split."""

from __future__ import annotations

import triton
import triton.language as tl

from blockrank_kernels.arithmetic import LOG2_E, dot, softcapped
from blockrank_kernels.block_attention.triton.tile_code import load_rows, store_rows, tile_rows, visible_keys


@triton.jit
def _attend_keys(
    out, peak, total, q, tokens, row_positions, start, end, head, K, V, k_token, k_head, v_token, v_head, positions,
    scale, cap, dim, value_dim,
    SAME_SEGMENT: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    KEYS: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Attend to one range of keys, by an online softmax."""
    for first in range(start, end, KEYS):
        keys = first + tl.arange(0, KEYS)
        k = load_rows(K, keys, head, keys < end, k_token, k_head, dim, DIM)
        logits = softcapped(dot(q, tl.trans(k)) * scale, cap, SOFTCAP)
        seen = visible_keys(tokens, row_positions, keys, end, positions, SAME_SEGMENT, CAUSAL, WINDOW)
        logits = tl.where(seen, logits * LOG2_E, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(logits, 1))
        # A row that has seen no key yet must not become inf - inf.
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weights = tl.exp2(logits - base[:, None])
        shrink = tl.exp2(peak - base)
        v = load_rows(V, keys, head, keys < end, v_token, v_head, value_dim, VALUE_DIM)
        out = out * shrink[:, None] + dot(weights.to(v.dtype), v)
        total = total * shrink + tl.sum(weights, 1)
        peak = new_peak
    return out, peak, total


@triton.jit
def forward_kernel(
    Q, K, V, out, lse, items, positions, q_token, q_head, k_token, k_head, v_token, v_head, tokens_in_all,
    scale, cap, dim, value_dim,
    GROUP: tl.constexpr, SPLIT: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Write the output and log2-sum-exp2 of one tile of rows.

    Split: ``out`` ``[slots, Hk, ROWS, dim]`` and ``lse`` ``[slots, Hk, ROWS]``, in fp32.
    """
    item = items + tl.program_id(0).to(tl.int64) * 7
    head = tl.program_id(1).to(tl.int64)
    start, end = tl.load(item), tl.load(item + 1)
    tokens, heads, valid, row_positions = tile_rows(start, end, head, positions, GROUP, ROWS, WINDOW)
    q = load_rows(Q, tokens, heads, valid, q_token, q_head, dim, DIM)
    acc = tl.zeros([ROWS, VALUE_DIM], dtype=tl.float32)
    peak = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    acc, peak, total = _attend_keys(
        acc, peak, total, q, tokens, row_positions, tl.load(item + 2), tl.load(item + 3), head,
        K, V, k_token, k_head, v_token, v_head, positions, scale, cap, dim, value_dim,
        False, CAUSAL, WINDOW, SOFTCAP, KEYS, DIM, VALUE_DIM,
    )  # fmt: skip
    acc, peak, total = _attend_keys(
        acc, peak, total, q, tokens, row_positions, tl.load(item + 4), tl.load(item + 5), head,
        K, V, k_token, k_head, v_token, v_head, positions, scale, cap, dim, value_dim,
        True, CAUSAL, WINDOW, SOFTCAP, KEYS, DIM, VALUE_DIM,
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
        store_rows(out, tokens, heads, valid, all_heads * value_dim, value_dim, value_dim, acc, VALUE_DIM)
        tl.store(lse + heads * tokens_in_all + tokens, row_lse, mask=valid)


@triton.jit
def merge_softmax_kernel(
    partial, partial_lse, out, lse, merged, tokens_in_all, value_dim,
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
    tl.store(lse + heads * tokens_in_all + tokens, peak + tl.log2(total), mask=valid)
