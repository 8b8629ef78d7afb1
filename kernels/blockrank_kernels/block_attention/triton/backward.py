"""The backward kernels: gradients of one tile of rows or keys, and their sum where a tile was split."""

from __future__ import annotations

import triton
import triton.language as tl

from blockrank_kernels.arithmetic import LOG2_E, dot, softcap_slope, softcapped
from blockrank_kernels.block_attention.triton.tile_code import load_rows, store_rows, tile_rows, visible_keys


@triton.jit(do_not_specialize=["tokens_in_all"])
def delta_kernel(grad, out, delta, tokens_in_all, value_dim: tl.constexpr, ROWS: tl.constexpr, VALUE_DIM: tl.constexpr):
    """Write ``sum(grad * out)`` of every row, ``[Hq, T]``: what the softmax's gradient subtracts."""
    tokens = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    head, heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    valid = tokens < tokens_in_all
    g = load_rows(grad, tokens, head, valid, heads * value_dim, value_dim, value_dim, VALUE_DIM).to(tl.float32)
    o = load_rows(out, tokens, head, valid, heads * value_dim, value_dim, value_dim, VALUE_DIM).to(tl.float32)
    tl.store(delta + head * tokens_in_all + tokens, tl.sum(g * o, 1), mask=valid)


@triton.jit
def _attend_query_gradient(
    dq, q, g, row_lse, row_delta, tokens, row_positions, start, end, head,
    K, V, k_token, k_head, v_token, v_head, positions, scale, cap, dim: tl.constexpr, value_dim: tl.constexpr,
    SAME_SEGMENT: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    KEYS: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Add to the gradient of a tile of rows what comes from one range of keys."""
    for first in range(start, end, KEYS):
        keys = first + tl.arange(0, KEYS)
        k = load_rows(K, keys, head, keys < end, k_token, k_head, dim, DIM)
        v = load_rows(V, keys, head, keys < end, v_token, v_head, value_dim, VALUE_DIM)
        logits = softcapped(dot(q, tl.trans(k)) * scale, cap, SOFTCAP)
        seen = visible_keys(tokens, row_positions, keys, end, positions, SAME_SEGMENT, CAUSAL, WINDOW)
        weights = tl.where(seen, tl.exp2(logits * LOG2_E - row_lse[:, None]), 0.0)
        d_weights = dot(g, tl.trans(v))
        d_logits = weights * (d_weights - row_delta[:, None]) * softcap_slope(logits, cap, SOFTCAP)
        dq += dot(d_logits.to(k.dtype), k)
    return dq


@triton.jit(do_not_specialize=["tokens_in_all"])
def query_gradient_kernel(
    Q, K, V, grad, lse, delta, dQ, items, positions, q_token, q_head, k_token, k_head, v_token, v_head, tokens_in_all,
    scale, cap,
    dim: tl.constexpr, value_dim: tl.constexpr,
    GROUP: tl.constexpr, SPLIT: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Write the gradient of one tile of rows; split, a partial one in fp32."""
    item = items + tl.program_id(0).to(tl.int64) * 8
    head = tl.program_id(1).to(tl.int64)
    all_heads = tl.num_programs(1) * GROUP
    start, end = tl.load(item), tl.load(item + 1)
    tokens, heads, valid, row_positions = tile_rows(start, end, head, positions, GROUP, ROWS, WINDOW)
    q = load_rows(Q, tokens, heads, valid, q_token, q_head, dim, DIM)
    g = load_rows(grad, tokens, heads, valid, all_heads * value_dim, value_dim, value_dim, VALUE_DIM)
    row_lse = tl.load(lse + heads * tokens_in_all + tokens, mask=valid, other=0.0)
    row_delta = tl.load(delta + heads * tokens_in_all + tokens, mask=valid, other=0.0)
    dq = tl.zeros([ROWS, DIM], dtype=tl.float32)
    dq = _attend_query_gradient(
        dq, q, g, row_lse, row_delta, tokens, row_positions, tl.load(item + 2), tl.load(item + 3), head,
        K, V, k_token, k_head, v_token, v_head, positions, scale, cap, dim, value_dim,
        False, CAUSAL, WINDOW, SOFTCAP, KEYS, DIM, VALUE_DIM,
    )  # fmt: skip
    dq = _attend_query_gradient(
        dq, q, g, row_lse, row_delta, tokens, row_positions, tl.load(item + 4), tl.load(item + 5), head,
        K, V, k_token, k_head, v_token, v_head, positions, scale, cap, dim, value_dim,
        True, CAUSAL, WINDOW, SOFTCAP, KEYS, DIM, VALUE_DIM,
    )  # fmt: skip
    dq = dq * scale
    if SPLIT:
        slot = tl.load(item + 6) * tl.num_programs(1) + head
        store_rows(dQ, slot * ROWS + tl.arange(0, ROWS), 0, valid, dim, 0, dim, dq, DIM)
    else:
        store_rows(dQ, tokens, heads, valid, all_heads * dim, dim, dim, dq, DIM)


@triton.jit
def _attend_key_gradient(
    dk, dv, k, v, keys, key_positions, key_end, start, end, head, all_heads,
    Q, grad, lse, delta, q_token, q_head, positions, tokens_in_all, scale, cap,
    dim: tl.constexpr, value_dim: tl.constexpr,
    SAME_SEGMENT: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Add to the gradients of a tile of keys and values what comes from one range of rows."""
    for first in range(start, end, ROWS // GROUP):
        tokens, heads, valid, row_positions = tile_rows(first, end, head, positions, GROUP, ROWS, WINDOW)
        q = load_rows(Q, tokens, heads, valid, q_token, q_head, dim, DIM)
        g = load_rows(grad, tokens, heads, valid, all_heads * value_dim, value_dim, value_dim, VALUE_DIM)
        row_lse = tl.load(lse + heads * tokens_in_all + tokens, mask=valid, other=0.0)
        row_delta = tl.load(delta + heads * tokens_in_all + tokens, mask=valid, other=0.0)
        logits = softcapped(dot(k, tl.trans(q)) * scale, cap, SOFTCAP)
        seen = (keys < key_end)[:, None] & valid[None, :]
        if SAME_SEGMENT and CAUSAL:
            seen = seen & (keys[:, None] <= tokens[None, :])
        if WINDOW > 0:
            seen = seen & (tl.abs(key_positions[:, None] - row_positions[None, :]) < WINDOW)
        weights = tl.where(seen, tl.exp2(logits * LOG2_E - row_lse[None, :]), 0.0)
        dv += dot(weights.to(g.dtype), g)
        d_weights = dot(v, tl.trans(g))
        d_logits = weights * (d_weights - row_delta[None, :]) * softcap_slope(logits, cap, SOFTCAP)
        dk += dot(d_logits.to(q.dtype), q)
    return dk, dv


@triton.jit(do_not_specialize=["tokens_in_all"])
def key_gradient_kernel(
    Q, K, V, grad, lse, delta, dK, dV, items, positions, q_token, q_head, k_token, k_head, v_token, v_head,
    tokens_in_all, scale, cap,
    dim: tl.constexpr, value_dim: tl.constexpr,
    GROUP: tl.constexpr, SPLIT: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Write the gradients of one tile of keys and values; split, partial ones in fp32."""
    item = items + tl.program_id(0).to(tl.int64) * 8
    head, key_heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    end = tl.load(item + 1)
    keys = tl.load(item) + tl.arange(0, KEYS)
    valid = keys < end
    key_positions = tl.zeros([KEYS], dtype=tl.int64)
    if WINDOW > 0:
        key_positions = tl.load(positions + keys, mask=valid, other=0)
    k = load_rows(K, keys, head, valid, k_token, k_head, dim, DIM)
    v = load_rows(V, keys, head, valid, v_token, v_head, value_dim, VALUE_DIM)
    dk = tl.zeros([KEYS, DIM], dtype=tl.float32)
    dv = tl.zeros([KEYS, VALUE_DIM], dtype=tl.float32)
    dk, dv = _attend_key_gradient(
        dk, dv, k, v, keys, key_positions, end, tl.load(item + 2), tl.load(item + 3), head, key_heads * GROUP,
        Q, grad, lse, delta, q_token, q_head, positions, tokens_in_all, scale, cap, dim, value_dim,
        False, CAUSAL, WINDOW, SOFTCAP, GROUP, ROWS, DIM, VALUE_DIM,
    )  # fmt: skip
    dk, dv = _attend_key_gradient(
        dk, dv, k, v, keys, key_positions, end, tl.load(item + 4), tl.load(item + 5), head, key_heads * GROUP,
        Q, grad, lse, delta, q_token, q_head, positions, tokens_in_all, scale, cap, dim, value_dim,
        True, CAUSAL, WINDOW, SOFTCAP, GROUP, ROWS, DIM, VALUE_DIM,
    )  # fmt: skip
    dk = dk * scale
    if SPLIT:
        slot_rows = (tl.load(item + 6) * key_heads + head) * KEYS + tl.arange(0, KEYS)
        store_rows(dK, slot_rows, 0, valid, dim, 0, dim, dk, DIM)
        store_rows(dV, slot_rows, 0, valid, value_dim, 0, value_dim, dv, VALUE_DIM)
    else:
        store_rows(dK, keys, head, valid, key_heads * dim, dim, dim, dk, DIM)
        store_rows(dV, keys, head, valid, key_heads * value_dim, value_dim, value_dim, dv, VALUE_DIM)


@triton.jit
def merge_sum_kernel(
    partial, out, merged, dim: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr
):
    """Add the slots of one tile up, one after the other."""
    tile = merged + tl.program_id(0).to(tl.int64) * 4
    head, key_heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    tokens, heads, valid, _ = tile_rows(tl.load(tile), tl.load(tile + 1), head, merged, GROUP, ROWS, 0)
    acc = tl.zeros([ROWS, DIM], dtype=tl.float32)
    first = tl.load(tile + 2)
    for slot in range(first, first + tl.load(tile + 3)):
        acc += load_rows(partial, (slot * key_heads + head) * ROWS + tl.arange(0, ROWS), 0, valid, dim, 0, dim, DIM)
    store_rows(out, tokens, heads, valid, key_heads * GROUP * dim, dim, dim, acc, DIM)
