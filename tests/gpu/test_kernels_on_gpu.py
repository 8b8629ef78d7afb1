"""The kernels at real sizes. On a GPU: pytest tests/gpu"""

from __future__ import annotations

import pytest
import torch
from blockrank_kernels import block_attention, document_lse

from tests.kernels.cases import AttentionCase, LseCase, attention_case, check_attention, check_lse, lse_case
from tests.kernels.conftest import pack

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

MISTRAL = (32, 8, 128)


@pytest.mark.parametrize("seed", range(200))
def test_block_attention_at_real_sizes(seed):
    check_attention(attention_case(seed, longest=400, documents=8), "cuda")


@pytest.mark.parametrize("seed", range(200))
def test_log_sum_exps_at_real_sizes(seed):
    check_lse(lse_case(seed, longest=600, documents=200), "cuda")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "requests",
    [[(16, [5000], 20)], [(1, [1] * 2000, 1)], [(1, [], 1)], [(128, [200] * 12, 96)], [(30, [256, 7], 9)] * 3],
    ids=["a document of 5,000 tokens", "2,000 documents of one token", "no documents", "uniform", "three requests"],
)
def test_block_attention_of_extreme_packs(requests, dtype):
    check_attention(AttentionCase(requests, (8, 2, 64), dtype, {"causal": True}, 0), "cuda")


@pytest.mark.parametrize("dim", [32, 64, 80, 96, 128, 256])
def test_every_head_dimension(dim):
    check_attention(AttentionCase([(20, [100, 33], 40)], (4, 2, dim), torch.bfloat16, {"causal": True}, 0), "cuda")
    check_lse(LseCase([100, 33], 40, (4, 2, dim), torch.bfloat16, None, 0), "cuda")


def test_a_million_tokens_are_addressed_with_64_bits():
    tokens = 1 << 20
    segments = pack([(64, [1023] * ((tokens - 128) // 1023), 64)])
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(segments.num_tokens, heads, 128, generator=generator, device="cuda", dtype=torch.bfloat16)
        for heads in (MISTRAL[0], MISTRAL[1], MISTRAL[1])
    )
    out = block_attention(q, k, v, segments, implementation="triton")
    last = segments.offsets[-3:-1].tolist()
    # The last document alone, with the instruction, is the same computation at small addresses.
    rows = torch.cat([torch.arange(64), torch.arange(*last)]).cuda()
    small = pack([(64, [last[1] - last[0]], 1)])
    pad = torch.cat([rows, rows[-1:]])
    alone = block_attention(q[pad], k[pad], v[pad], small, implementation="triton")
    torch.testing.assert_close(out[rows[64:]], alone[64:-1], rtol=0, atol=0)


def test_log_sum_exps_write_no_logits():
    documents, signals = 500, 64
    key = torch.randn(documents * 200, 8, 128, device="cuda", dtype=torch.bfloat16)
    query = torch.randn(signals, 32, 128, device="cuda", dtype=torch.bfloat16)
    offsets = torch.arange(documents + 1) * 200
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    document_lse(query, key, offsets, implementation="triton")
    used = torch.cuda.max_memory_allocated() - before
    assert used < 8 * signals * 32 * documents * 4, f"{used} bytes"
