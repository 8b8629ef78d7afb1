"""Attention of a query block to stored keys and values, joined or a part at a time."""

from __future__ import annotations

import pytest
import torch
from blockrank_kernels import last_rows_attention

from tests.kernels.conftest import assert_no_worse_than_eager, random_qkv

ROWS, INSTRUCTION = 7, 5
PARTS = [1, 30, 12, 3]


def eager(query, key, value, positions, *, causal, scale, softcap, window):
    """In the dtype of the tensors, with every logit at once."""
    group = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(group, 1) for tensor in (key, value))
    logits = torch.einsum("rhd,khd->hrk", query, key) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    rows, keys = logits.shape[1:]
    seen = torch.ones(rows, keys, dtype=torch.bool)
    if causal:
        seen = seen.tril(keys - rows)
    if window is not None:
        seen &= (positions[-rows:, None] - positions).abs() < window
    return torch.einsum("hrk,khd->rhd", logits.masked_fill(~seen, float("-inf")).softmax(-1), value)


@pytest.mark.parametrize("heads", [(4, 4, 16), (6, 2, 24), (8, 1, 32)], ids=str)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("options", [{}, {"softcap": 5.0}, {"window": 16}, {"window": 40, "softcap": 3.0}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("in_parts", [False, True], ids=["joined", "in-parts"])
def test_rows_over_stored_keys_are_no_worse_than_eager_attention(heads, causal, options, dtype, in_parts):
    lengths = [INSTRUCTION, *PARTS, ROWS]
    # Documents begin after the instruction, the query at an offset: its window reaches some parts in part.
    blocks = [torch.arange(INSTRUCTION), *(INSTRUCTION + torch.arange(length) for length in PARTS)]
    positions = torch.cat([*blocks, 24 + torch.arange(ROWS)])
    query, key, value = random_qkv(sum(lengths), *heads, dtype)
    query = query[-ROWS:]
    how = {"causal": causal, "scale": heads[2] ** -0.5, "softcap": None, "window": None} | options
    truth = eager(query.double(), key.double(), value.double(), positions, **how)
    pieces = [tensor.split(lengths) for tensor in (key, value, positions)]
    if in_parts:
        joined = (torch.cat([piece[0], piece[-1]]) for piece in pieces)
        parts = zip(*(piece[1:-1] for piece in pieces), strict=True)
        got = last_rows_attention(query, *joined, **how, parts=parts)
    else:
        got = last_rows_attention(query, key, value, positions, **how)
    assert got.dtype == dtype
    assert_no_worse_than_eager(got, eager(query, key, value, positions, **how), truth)


def test_a_part_beyond_the_window_takes_no_attention():
    query, key, value = random_qkv(6, 2, 2, 8, torch.float32)
    positions = torch.tensor([100, 101])
    far = (key[:4], torch.full_like(value[:4], float("inf")).clamp(max=1e30), torch.arange(4))
    how = {"causal": True, "scale": 1.0, "softcap": None, "window": 10}
    alone = last_rows_attention(query[4:], key[4:], value[4:], positions, **how)
    torch.testing.assert_close(last_rows_attention(query[4:], key[4:], value[4:], positions, **how, parts=[far]), alone)
