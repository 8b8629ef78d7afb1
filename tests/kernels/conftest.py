"""Packs, random tensors and fixtures that the tests of the kernels share."""

from __future__ import annotations

import pytest
import torch
from blockrank_kernels import Segments


def pack(requests: list[tuple[int, list[int], int]], query_offset: int = 1000) -> Segments:
    """Pack requests, as (instruction, documents, query) lengths, into segments laid out as BlockRank does."""
    lengths, contexts, positions, start = [], [], [], 0
    for instruction, documents, query in requests:
        context = (start, start + instruction)
        lengths += [instruction, *documents, query]
        contexts += [(start, start)] + [context] * len(documents) + [(start, start + instruction + sum(documents))]
        positions.append(torch.arange(instruction))
        positions += [instruction + torch.arange(length) for length in documents]
        positions.append(query_offset + torch.arange(query))
        start += instruction + sum(documents) + query
    return Segments.from_lengths(lengths, contexts, torch.cat(positions))


def assert_no_worse_than_eager(got: torch.Tensor, eager: torch.Tensor, truth: torch.Tensor, roundings: int = 2) -> None:
    """Assert that the error against fp64 truth is at most eager's, plus some roundings of the largest value."""
    rounding = roundings * torch.finfo(got.dtype).eps * float(truth.abs().max())
    error, allowed = (got.double() - truth).abs().max(), (eager.double() - truth).abs().max()
    assert float(error) <= float(allowed) + rounding, f"error {error:.3e}, eager {allowed:.3e}, + {rounding:.1e}"


def random_qkv(tokens: int, heads: int, key_heads: int, dim: int, dtype: torch.dtype, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(tokens, heads, dim), (tokens, key_heads, dim), (tokens, key_heads, dim)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.fixture(autouse=True)
def poison_uninitialised_memory(monkeypatch):
    """Fill uninitialised memory with NaN, which whatever an operation forgets to write stays."""
    empty = torch.Tensor.new_empty

    def poisoned(self, *args, **kwargs):
        out = empty(self, *args, **kwargs)
        return out.fill_(float("nan")) if out.is_floating_point() else out

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
