"""Block attention in torch against its specification, and the arguments that it refuses."""

from __future__ import annotations

import pytest
import torch
from blockrank_kernels import Segments, block_attention

from tests.kernels.conftest import assert_no_worse_than_eager, pack, random_qkv

hypothesis = pytest.importorskip("hypothesis", reason="draws its cases")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

PACKS = {
    "inst37-docs4-q23": [(37, [5, 90, 33, 34], 23)],
    "inst1-docs1x1-q1": [(1, [1], 1)],
    "two-requests": [(11, [3, 60, 7], 9), (4, [20, 21, 22, 23, 1], 2)],
    "same-instruction-three-requests": [(6, [9, 10, 11], 5), (6, [9, 40], 5), (6, [1, 1, 1], 1)],
    "no-documents": [(5, [], 3)],
    "40-skewed-documents": [(8, [1 + (i * i) % 29 for i in range(40)], 12)],
}
HEADS = [(4, 4, 16), (6, 2, 24), (8, 1, 32)]


@pytest.mark.parametrize("requests", PACKS.values(), ids=PACKS.keys())
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("options", [{}, {"softcap": 5.0}, {"window": 16}, {"window": 40, "softcap": 3.0}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_sdpa_is_no_worse_than_eager_attention_in_the_same_dtype(requests, heads, causal, options, dtype):
    segments = pack(requests)
    q, k, v = random_qkv(segments.num_tokens, *heads, dtype)
    truth = block_attention(
        q.double(), k.double(), v.double(), segments, causal=causal, implementation="reference", **options
    )
    eager = block_attention(q, k, v, segments, causal=causal, implementation="reference", **options)
    got = block_attention(q, k, v, segments, causal=causal, implementation="sdpa", **options)
    assert got.dtype == dtype
    assert_no_worse_than_eager(got, eager, truth)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("options", [{}, {"softcap": 5.0}, {"window": 16}], ids=str)
def test_gradients_equal_those_of_the_dense_mask(causal, options):
    segments = pack(PACKS["two-requests"])
    inputs = [t.requires_grad_() for t in random_qkv(segments.num_tokens, 4, 2, 16, torch.float64)]
    seed = torch.randn(segments.num_tokens, 4, 16, dtype=torch.float64)
    grads = []
    for implementation in ("reference", "sdpa"):
        out = block_attention(*inputs, segments, causal=causal, implementation=implementation, **options)
        grads.append(torch.autograd.grad(out, inputs, seed))
    for expected, got in zip(*grads, strict=True):
        torch.testing.assert_close(got, expected)


lengths = st.integers(1, 40)
requests = st.lists(st.tuples(lengths, st.lists(lengths, max_size=8), lengths), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(requests=requests, causal=st.booleans(), window=st.none() | st.integers(1, 60), seed=st.integers(0, 99))
def test_any_ragged_pack_equals_the_dense_mask(requests, causal, window, seed):
    segments = pack(requests, query_offset=50)
    q, k, v = random_qkv(segments.num_tokens, 4, 2, 8, torch.float64, seed)
    run = {
        name: block_attention(q, k, v, segments, causal=causal, window=window, implementation=name)
        for name in ("reference", "sdpa")
    }
    torch.testing.assert_close(run["sdpa"], run["reference"])


def test_a_document_sees_no_other_document_even_when_it_holds_nan():
    segments = pack([(5, [7, 8, 9], 4)])
    q, k, v = random_qkv(segments.num_tokens, 2, 2, 8, torch.float32)
    start, end = segments.offsets[2:4].tolist()
    v[start:end] = float("nan")
    out = block_attention(q, k, v, segments)
    assert out[:start].isfinite().all()
    assert out[end:-4].isfinite().all()
    assert out[-4:].isnan().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 0}, "window must be at least 1"),
        ({"implementation": "triton-typo"}, "implementation must be one of auto, reference, sdpa"),
        ({"key": torch.zeros(5, 3, 8)}, "multiple of the key heads"),
        ({"key": torch.zeros(4, 2, 8)}, "need the 5 tokens"),
        ({"value": torch.zeros(5, 1, 8)}, "value must have key's 2 heads"),
        ({"query": torch.zeros(5, 16)}, "packed as"),
        ({"query": torch.zeros(5, 2, 8, dtype=torch.float64)}, "share dtype and device"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(change, message):
    arguments = {name: torch.zeros(5, 2, 8) for name in ("query", "key", "value")}
    with pytest.raises(ValueError, match=message):
        block_attention(**{**arguments, "segments": pack([(2, [1, 1], 1)]), **change})


@pytest.mark.parametrize(
    ("lengths", "contexts", "message"),
    [
        ([2, 0], [(0, 0), (0, 2)], "rise strictly"),
        ([2, 3], [(0, 0), (0, 3)], "must lie before it"),
        ([2, 3], [(0, 0)], "one value for each"),
    ],
)
def test_bounds_that_describe_no_pack_are_refused(lengths, contexts, message):
    with pytest.raises(ValueError, match=message):
        Segments.from_lengths(lengths, contexts)
