"""Random cases of the kernels with the one check that all of them must pass, on any device and at any size."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from blockrank_kernels import block_attention, document_lse

from tests.kernels.conftest import assert_no_worse_than_eager, pack, random_qkv

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class AttentionCase:
    """A call of block attention; ``requests`` as :func:`tests.kernels.conftest.pack` takes them."""

    requests: list[tuple[int, list[int], int]]
    heads: tuple[int, int, int]
    dtype: torch.dtype
    options: dict[str, Any]
    seed: int


def attention_case(seed: int, longest: int, documents: int) -> AttentionCase:
    """Draw a ragged pack; short lengths are as likely as long ones."""
    rng = random.Random(seed)

    def length(most: int) -> int:
        return max(1, round(most ** rng.random()))

    requests = [
        (length(longest), [length(longest) for _ in range(rng.randint(0, documents))], length(longest))
        for _ in range(rng.choice([1, 1, 2, 3]))
    ]
    key_heads, group = rng.choice([(1, 1), (2, 1), (1, 3), (2, 4), (1, 8)])
    dim = rng.choice([32, 64, 96, 128] if longest > 100 else [8, 16, 24, 32])
    options: dict[str, Any] = {"causal": rng.random() < 0.6}
    if rng.random() < 0.25:
        options["softcap"] = rng.choice([2.0, 30.0])
    if rng.random() < 0.25:
        # Few, since each is a kernel of its own. A window of 1 leaves gradients of exactly 0, and no error to allow.
        options["window"] = rng.choice([2, 5, longest // 4, longest, 2 * longest])
    return AttentionCase(requests, (key_heads * group, key_heads, dim), rng.choice(DTYPES), options, seed)


def check_attention(case: AttentionCase, device: str, implementation: str = "triton") -> None:
    """Assert that output and gradients are no worse than eager attention's in the same dtype."""
    segments = pack(case.requests, query_offset=200)
    inputs = [t.to(device) for t in random_qkv(segments.num_tokens, *case.heads, case.dtype, case.seed)]
    results = {}
    for name, dtype in ((implementation, case.dtype), ("reference", case.dtype), ("truth", torch.float64)):
        leaves = [t.detach().to(dtype).requires_grad_() for t in inputs]
        out = block_attention(
            *leaves, segments, implementation="reference" if name == "truth" else name, **case.options
        )
        generator = torch.Generator().manual_seed(case.seed)
        seed = torch.randn(out.shape, generator=generator).to(case.dtype).to(device, dtype)
        results[name] = [out.detach(), *torch.autograd.grad(out, leaves, seed)]
    compare(results[implementation], results["reference"], results["truth"])
    assert all(got.dtype == case.dtype for got in results[implementation])


@dataclass(frozen=True)
class LseCase:
    """A call of the log-sum-exps of documents."""

    lengths: list[int]
    signals: int
    heads: tuple[int, int, int]
    dtype: torch.dtype
    softcap: float | None
    seed: int


def lse_case(seed: int, longest: int, documents: int) -> LseCase:
    """Draw ragged documents."""
    rng = random.Random(seed)
    lengths = [max(1, round(longest ** rng.random())) for _ in range(rng.randint(1, documents))]
    key_heads, group = rng.choice([(1, 1), (2, 1), (1, 3), (2, 4)])
    dim = rng.choice([32, 64, 96, 128] if longest > 100 else [8, 16, 24, 32])
    softcap = rng.choice([None, None, 3.0])
    return LseCase(lengths, rng.randint(1, 40), (key_heads * group, key_heads, dim), rng.choice(DTYPES), softcap, seed)


def check_lse(case: LseCase, device: str, implementation: str = "triton") -> None:
    """Assert that log-sum-exps and gradients are no worse than the reference's in the same dtype."""
    heads, key_heads, dim = case.heads
    generator = torch.Generator().manual_seed(case.seed)
    shapes = [(case.signals, heads, dim), (sum(case.lengths) + 5, key_heads, dim)]
    inputs = [torch.randn(shape, generator=generator).to(case.dtype).to(device) for shape in shapes]
    # Keys before and after the documents: the instruction's and the query's.
    offsets = 3 + torch.tensor([0, *case.lengths]).cumsum(0)
    seed = torch.randn(case.signals, heads, len(case.lengths), generator=generator)
    results = {}
    for name, dtype in ((implementation, case.dtype), ("reference", case.dtype), ("truth", torch.float64)):
        leaves = [t.detach().to(dtype).requires_grad_() for t in inputs]
        lse = document_lse(
            *leaves, offsets, softcap=case.softcap, implementation="reference" if name == "truth" else name
        )
        results[name] = [lse.detach(), *torch.autograd.grad(lse, leaves, seed.to(device, lse.dtype))]
    compare(results[implementation], results["reference"], results["truth"])


def compare(results: list[torch.Tensor], eager: list[torch.Tensor], truth: list[torch.Tensor]) -> None:
    """Assert that no result is worse than eager: the output first, then the gradients.

    Gradients may have two roundings more, since their softmax is recomputed from a rounded log-sum-exp.
    """
    for index, (result, other, exact) in enumerate(zip(results, eager, truth, strict=True)):
        assert result.isfinite().all()
        assert_no_worse_than_eager(result, other, exact, roundings=4 if index else 2)
