"""A second oracle beside the dense one: torch's attention over sequences of many lengths. On a GPU: pytest tests/gpu"""

from __future__ import annotations

import inspect
import sys
from types import SimpleNamespace

import pytest
import torch
from blockrank_kernels import Segments, block_attention

from tests.kernels.conftest import assert_no_worse_than_eager, pack, random_qkv

ARGUMENTS = {"return_aux", "window_size"}
"""What the oracle tells torch's attention; its first releases took other arguments."""


def missing() -> str | None:
    """Why torch's attention over sequences of many lengths cannot be the oracle here, if it cannot."""
    if not torch.cuda.is_available():
        return "needs a GPU"
    if (capability := torch.cuda.get_device_capability()) < (8, 0):
        return f"torch's varlen attention needs compute capability 8.0, got {capability[0]}.{capability[1]}"
    if not torch.backends.cuda.is_flash_attention_available():
        return f"torch's varlen attention needs FlashAttention, which torch {torch.__version__} is built without"
    try:
        from torch.nn.attention import varlen
    except ImportError:
        return f"torch {torch.__version__} has no torch.nn.attention.varlen"
    if lacking := ARGUMENTS - inspect.signature(varlen.varlen_attn).parameters.keys():
        return f"varlen_attn of torch {torch.__version__} takes no {', '.join(sorted(lacking))}"
    return None


needs_varlen = pytest.mark.skipif(missing() is not None, reason=str(missing()))

PACKS = {
    "uniform": [(128, [200] * 12, 96)],
    "skewed": [(37, [384, 3, 50, 1, 129, 64, 65], 23)],
    "several requests": [(30, [256, 7], 9)] * 3,
    "long query": [(1, [5, 300], 700)],
}


def varlen_attention(query, key, value, segments: Segments, causal: bool):
    """Attend in two calls, to contexts and to own segments, and merge by their log-sum-exps."""
    lengths, contexts = segments.offsets.diff(), segments.context_ends - segments.context_starts
    seeing = contexts.nonzero()[:, 0]
    rows = torch.cat([torch.arange(segments.offsets[g], segments.offsets[g + 1]) for g in seeing])
    seen = torch.cat([torch.arange(segments.context_starts[g], segments.context_ends[g]) for g in seeing])
    rows, seen = rows.to(query.device), seen.to(query.device)
    own, own_lse = attend(query, key, value, lengths, lengths, causal)
    context, context_lse = attend(query[rows], key[seen], value[seen], lengths[seeing], contexts[seeing], False)
    share = torch.sigmoid(context_lse - own_lse[rows])[..., None]
    out = own.float()
    out[rows] = context.float() * share + out[rows] * (1 - share)
    return out.to(query.dtype)


def attend(query, key, value, query_lengths, key_lengths, causal):
    """Output ``[rows, heads, dim]`` and log-sum-exps ``[rows, heads]`` of sequences side by side."""
    bounds = [
        torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(query.device, torch.int32)
        for lengths in (query_lengths, key_lengths)
    ]
    from torch.nn.attention import varlen

    out, lse = varlen.varlen_attn(
        query,
        *(tensor.repeat_interleave(query.shape[1] // tensor.shape[1], 1) for tensor in (key, value)),
        *bounds,
        int(query_lengths.max()),
        int(key_lengths.max()),
        return_aux=varlen.AuxRequest(lse=True),
        window_size=(-1, 0) if causal else (-1, -1),
    )
    # Documented as [rows, heads], as one release of torch returns it; another returns [heads, rows].
    return out, lse if lse.shape == query.shape[:2] else lse.T


@needs_varlen
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("requests", PACKS.values(), ids=PACKS)
def test_triton_is_no_worse_than_varlen_attention(requests, causal, dtype):
    segments = pack(requests)
    inputs = [tensor.cuda() for tensor in random_qkv(segments.num_tokens, 8, 2, 128, dtype)]
    truth = block_attention(
        *(tensor.double() for tensor in inputs), segments, causal=causal, implementation="reference"
    )
    oracle = varlen_attention(*inputs, segments, causal)
    torch.testing.assert_close(oracle.double(), truth, rtol=0.02, atol=0.02)
    assert_no_worse_than_eager(
        block_attention(*inputs, segments, causal=causal, implementation="triton"), oracle, truth, roundings=4
    )


@pytest.mark.parametrize(
    ("gpu", "capability", "built", "attention", "reason"),
    [
        (False, (9, 0), True, lambda *, return_aux, window_size: None, "needs a GPU"),
        (True, (7, 5), True, lambda *, return_aux, window_size: None, "needs compute capability 8.0, got 7.5"),
        (True, (8, 0), False, lambda *, return_aux, window_size: None, "built without"),
        (True, (8, 0), True, None, "has no torch.nn.attention.varlen"),
        (True, (8, 0), True, lambda *, is_causal, return_aux: None, "takes no window_size"),
        (True, (8, 0), True, lambda *, return_aux, window_size: None, None),
    ],
)
def test_the_oracle_is_left_out_where_it_lacks_something_and_says_what(
    gpu, capability, built, attention, reason, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: built)
    monkeypatch.delattr("torch.nn.attention.varlen", raising=False)
    module = None if attention is None else SimpleNamespace(varlen_attn=attention)
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    found = missing()
    assert found is None if reason is None else reason in found
