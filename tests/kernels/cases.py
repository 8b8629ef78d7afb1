"""Random cases of the kernels with the one check that all of them must pass, on any device and at any size."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

import torch
from blockrank_kernels import block_attention, document_lse

from tests.kernels.conftest import assert_no_worse_than_eager, pack, random_qkv

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_TILE, DOCUMENTS_PER_CHUNK = 64, 16
"""Keys, and documents, that one step of a kernel takes at most."""

Case = TypeVar("Case", "AttentionCase", "LseCase")


@dataclass(frozen=True)
class AttentionCase:
    """A call of block attention; ``requests`` as :func:`tests.kernels.conftest.pack` takes them."""

    requests: list[tuple[int, list[int], int]]
    heads: tuple[int, int, int]
    dtype: torch.dtype
    options: dict[str, Any]
    seed: int

    @property
    def properties(self) -> tuple[Hashable, ...]:
        """What kernels and launches treat apart, in the order of names."""
        window = self.options.get("window", 0)
        context = max(instruction + sum(documents) for instruction, documents, _ in self.requests)
        return (
            *(self.dtype, self.heads[:2], self.heads[2], self.options["causal"], "softcap" in self.options),
            *(window > 0 and (window > 9), len(self.requests) > 1, context > LARGEST_TILE, self.splits),
        )

    @property
    def cost(self) -> float:
        """Time that the interpreter takes, roughly: fp32 has the smallest tiles."""
        rows = [sum(documents) + instruction + query for instruction, documents, query in self.requests]
        return 10 + sum(length**1.5 for length in rows) * self.heads[0] * (4 if self.dtype == torch.float32 else 1)

    @property
    def splits(self) -> bool:
        """Whether long ranges are to be split among several programs."""
        return self.seed % 2 == 1


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

    @property
    def properties(self) -> tuple[Hashable, ...]:
        """What kernels and launches treat apart, in the order of names."""
        rows = self.signals * self.heads[0] // self.heads[1]
        return (
            *(self.dtype, self.heads[:2], self.heads[2], self.softcap is not None),
            *(rows > 32, max(self.lengths) > LARGEST_TILE, len(self.lengths) > DOCUMENTS_PER_CHUNK),
        )

    @property
    def cost(self) -> float:
        """Time that the interpreter takes, roughly: fp32 has the smallest tiles."""
        rows = self.signals * self.heads[0]
        return 1000 + rows * sum(self.lengths) * (4 if self.dtype == torch.float32 else 1)


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


def covering(cases: Sequence[Case]) -> list[Case]:
    """Choose few and cheap cases in which every pair of properties occurs that occurs in any of them."""
    pairs = [{*combinations(enumerate(case.properties), 2)} for case in cases]
    missing, chosen = set().union(*pairs), []
    while missing:
        best = max(range(len(cases)), key=lambda number: len(pairs[number] & missing) / cases[number].cost)
        missing -= pairs[best]
        chosen.append(cases[best])
    return chosen


def compare(results: list[torch.Tensor], eager: list[torch.Tensor], truth: list[torch.Tensor]) -> None:
    """Assert that no result is worse than eager: the output first, then the gradients.

    Gradients may have two roundings more, since their softmax is recomputed from a rounded log-sum-exp.
    """
    for index, (result, other, exact) in enumerate(zip(results, eager, truth, strict=True)):
        assert result.isfinite().all()
        assert_no_worse_than_eager(result, other, exact, roundings=4 if index else 2)
