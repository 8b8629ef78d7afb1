"""Attention of a query block to stored keys and values, joined or a part at a time."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from blockrank_kernels import LastRows, last_rows_attention
from blockrank_kernels.block_attention.triton import tiles

from tests.interpreter import import_triton
from tests.kernels.conftest import assert_no_worse_than_eager, random_qkv

ROWS, INSTRUCTION = 7, 5
PARTS = [1, 30, 12, 3]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def sequence(in_parts):
    """Lengths and positions: documents begin after the instruction, the query at an offset."""
    documents = [INSTRUCTION + torch.arange(length) for length in PARTS]
    instruction, rows = torch.arange(INSTRUCTION), 24 + torch.arange(ROWS)
    parts = [*documents, torch.cat([instruction, rows])] if in_parts else [torch.cat([instruction, *documents, rows])]
    return [len(part) for part in parts], torch.cat(parts)


def attend(query, key, value, in_parts, implementation, runs=(), **how):
    lengths, positions = sequence(in_parts)
    pairs = list(zip(key.split(lengths), value.split(lengths), strict=True))
    options = {"causal": True, "scale": query.shape[2] ** -0.5, "implementation": implementation} | how
    return last_rows_attention(
        query, *pairs[-1], LastRows(ROWS, lengths, lambda: positions, runs), parts=pairs[:-1], **options
    )


def check(implementation, heads, dtype, in_parts, **how):
    tensors = random_qkv(sum(sequence(in_parts)[0]), *heads, dtype)
    query, key, value = tensors[0][-ROWS:].to(DEVICE), tensors[1].to(DEVICE), tensors[2].to(DEVICE)
    truth = attend(query.double(), key.double(), value.double(), in_parts, "reference", **how)
    got = attend(query, key, value, in_parts, implementation, **how)
    assert got.dtype == dtype
    assert_no_worse_than_eager(got, attend(query, key, value, in_parts, "reference", **how), truth)


OPTIONS = [{}, {"softcap": 5.0}, {"window": 16}, {"window": 40, "softcap": 3.0}]


@pytest.mark.parametrize("heads", [(4, 4, 16), (6, 2, 24), (8, 1, 32)], ids=str)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("in_parts", [False, True], ids=["joined", "in-parts"])
def test_rows_over_stored_keys_are_no_worse_than_the_reference(heads, causal, options, dtype, in_parts):
    check("sdpa", heads, dtype, in_parts, causal=causal, **options)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("in_parts", [False, True], ids=["joined", "in-parts"])
def test_runs_of_rows_are_no_worse_than_the_reference(causal, options, in_parts):
    check("sdpa", (6, 2, 24), torch.float32, in_parts, runs=[1, 4, 2], causal=causal, **options)


@pytest.mark.parametrize("implementation", ["reference", "sdpa", "triton"])
@pytest.mark.parametrize("in_parts", [False, True], ids=["joined", "in-parts"])
def test_a_run_of_rows_gets_what_it_would_get_without_the_others(implementation, in_parts):
    if implementation == "triton":
        import_triton()
    lengths, positions = sequence(in_parts)
    query, key, value = (tensor.to(DEVICE) for tensor in random_qkv(sum(lengths), 6, 2, 16, torch.float32))
    got = attend(query[-ROWS:], key, value, in_parts, implementation, [1, 4, 2])
    others, first = sum(lengths) - ROWS, 0
    for run in [1, 4, 2]:
        kept = torch.tensor([*range(others), *range(others + first, others + first + run)])
        own = [*lengths[:-1], lengths[-1] - ROWS + run]
        pairs = [*zip(key[kept].split(own), value[kept].split(own), strict=True)]
        rows = LastRows(run, own, lambda kept=kept: positions[kept])
        how = {"causal": True, "scale": 0.25, "implementation": "reference"}
        alone = last_rows_attention(query[kept][-run:], *pairs[-1], rows, parts=pairs[:-1], **how)
        torch.testing.assert_close(got[first : first + run], alone, atol=1e-5, rtol=1e-4)
        first += run


CASES = [
    ((6, 2, 24), True, {}, torch.float32, False, 1024),
    ((8, 1, 32), True, {}, torch.bfloat16, False, 16),
    ((6, 2, 24), False, {"softcap": 5.0}, torch.float16, False, 16),
    ((4, 4, 16), True, {"window": 16}, torch.float32, False, 16),
    ((6, 2, 24), True, {"window": 16}, torch.float32, True, 16),
    ((4, 4, 16), False, {"window": 40, "softcap": 3.0}, torch.bfloat16, True, 1024),
    ((8, 1, 32), False, {}, torch.float32, True, 8),
    ((4, 4, 16), True, {}, torch.float16, True, 1024),
]


@pytest.mark.parametrize(("heads", "causal", "options", "dtype", "in_parts", "split"), CASES, ids=str)
def test_the_same_kernels_attend_from_a_query_block(heads, causal, options, dtype, in_parts, split, monkeypatch):
    import_triton()
    monkeypatch.setattr(tiles, "SPLIT_LENGTH", split)
    check("triton", heads, dtype, in_parts, causal=causal, **options)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("lengths", "split"), [([60], 1024), ([60], 7), ([1, 30, 12, 3, 12], 1024), ([9, 40, 7], 7)])
def test_work_items_cover_every_key_of_every_row_once(lengths, split, causal, monkeypatch):
    monkeypatch.setattr(tiles, "SPLIT_LENGTH", split)
    total = sum(lengths)
    items, made = tiles.last_row_tiles([ROWS], lengths, causal, 3, 40, torch.device("cpu"))
    covered = torch.zeros(total, total, dtype=torch.int64)
    for part, (first, last) in zip(items, pairwise(accumulate(lengths, initial=0)), strict=True):
        for start, end, context, context_end, own, own_end, _, _ in part.tolist():
            assert all(first <= border <= last for border in (context, context_end))
            covered[start:end, context:context_end] += 1
            covered[start:end, own:own_end] += 1
    seen = torch.ones(total, total).tril().bool() if causal else torch.ones(total, total).bool()
    assert bool((covered[-ROWS:][seen[-ROWS:]] == 1).all())
    assert int(covered[:-ROWS].sum()) == 0
    slots = [slot for start, _, first, count in made.merged.tolist() for slot in range(first, first + count)]
    assert slots == sorted(made.split[:, 6].tolist()) == list(range(len(made.split)))
    assert len(made.whole) == (0 if slots else 3)


@pytest.mark.parametrize("implementation", ["sdpa", "triton"])
def test_a_part_beyond_the_window_takes_no_attention(implementation):
    if implementation == "triton":
        import_triton()
    query, key, value = random_qkv(6, 2, 2, 8, torch.float32)
    positions = torch.tensor([*range(4), 100, 101])
    far = (key[:4].to(DEVICE), torch.full_like(value[:4], float("inf")).clamp(max=1e30).to(DEVICE))
    own = [tensor[4:].to(DEVICE) for tensor in (query, key, value)]
    how = {"causal": True, "scale": 1.0, "window": 10, "implementation": implementation}
    alone = last_rows_attention(*own, LastRows(2, [2], lambda: positions[4:]), **how)
    torch.testing.assert_close(
        last_rows_attention(*own, LastRows(2, [4, 2], lambda: positions), **how, parts=[far]), alone
    )


def test_rows_that_would_need_a_gradient_are_refused_by_triton():
    import_triton()
    query, key, value = (tensor.to(DEVICE).requires_grad_() for tensor in random_qkv(3, 2, 2, 16, torch.float32))
    last_rows = LastRows(3, [3], lambda: torch.arange(3))
    with pytest.raises(ValueError, match="no backward pass in triton: use sdpa"):
        last_rows_attention(query, key, value, last_rows, causal=True, scale=1.0, implementation="triton")


def test_lengths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="must hold the 3 rows"):
        LastRows(3, [8, 2], lambda: torch.arange(10))
    with pytest.raises(ValueError, match="runs must be lengths above 0 that sum to the 2 rows, got "):
        LastRows(2, [8, 2], lambda: torch.arange(10), [1, 2])
    with pytest.raises(ValueError, match="positions needs 10 values, got 9"):
        _ = LastRows(2, [8, 2], lambda: torch.arange(9)).positions
    query, key, value = random_qkv(4, 2, 2, 16, torch.float32)
    with pytest.raises(ValueError, match=r"need \[2, 4, 4\] tokens for these last_rows, got \[3, 4, 4\]"):
        last_rows_attention(query[:3], key, value, LastRows(2, [4], lambda: torch.arange(4)), causal=True, scale=1.0)
