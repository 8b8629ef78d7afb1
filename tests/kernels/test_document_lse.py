"""Log-sum-exps of documents in torch against their specification, and the arguments that they refuse."""

from __future__ import annotations

import pytest
import torch
from blockrank_kernels import document_lse
from blockrank_kernels.document_lse import sdpa
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.conftest import assert_no_worse_than_eager

hypothesis = pytest.importorskip("hypothesis", reason="draws its cases")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies


def inputs(lengths, signals=2, heads=(6, 2), dim=16, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(signals, heads[0], dim, generator=generator).to(dtype)
    key = torch.randn(3 + sum(lengths) + 2, heads[1], dim, generator=generator).to(dtype)
    return query, key, 3 + torch.tensor([0, *lengths]).cumsum(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("lengths", [[1], [4, 1, 700, 2], [3] * 500], ids=["one", "ragged", "many"])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_sdpa_is_no_worse_than_the_reference_in_the_same_dtype(dtype, lengths, softcap):
    query, key, offsets = inputs(lengths, dtype=dtype)
    truth = document_lse(query.double(), key.double(), offsets, softcap=softcap, implementation="reference")
    eager = document_lse(query, key, offsets, softcap=softcap, implementation="reference")
    got = document_lse(query, key, offsets, softcap=softcap, implementation="sdpa")
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert got.shape == (2, 6, len(lengths))
    assert_no_worse_than_eager(got, eager, truth)


def test_the_softmax_over_documents_is_the_attention_summed_per_document():
    query, key, offsets = inputs([4, 1, 9])
    attention = torch.einsum("shd,thd->sht", query, key.repeat_interleave(3, 1)[3:17]).div(4).softmax(-1)
    expected = torch.stack([part.sum(-1) for part in attention.split([4, 1, 9], -1)], -1)
    torch.testing.assert_close(document_lse(query, key, offsets).softmax(-1), expected)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=30), budget=st.integers(1, 500))
def test_grouping_documents_changes_no_score_and_no_gradient(lengths, budget):
    query, key, offsets = (
        t.requires_grad_() if t.is_floating_point() else t for t in inputs(lengths, dtype=torch.float64)
    )
    results = []
    for elements in (budget, 1 << 30):
        sdpa.GROUP_ELEMENTS, saved = elements, sdpa.GROUP_ELEMENTS
        lse = document_lse(query, key, offsets, implementation="sdpa")
        results.append((lse, *torch.autograd.grad(lse.sin().sum(), (query, key))))
        sdpa.GROUP_ELEMENTS = saved
    reference = document_lse(query, key, offsets, implementation="reference")
    results.append((reference, *torch.autograd.grad(reference.sin().sum(), (query, key))))
    for other in results[1:]:
        torch.testing.assert_close(results[0], other)


class Operations(TorchDispatchMode):
    """Names of the operations that run while it is entered."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name)
        return func(*args, **kwargs or {})


def test_torch_sums_in_a_fixed_order_on_every_device():
    query, key, offsets = inputs([5, 1, 9])
    with Operations() as operations:
        document_lse(query, key, offsets, implementation="sdpa")
    # Largest values are the same in any order; sums by these are not, on a GPU.
    atomic = {"aten::index_add", "aten::index_add_", "aten::scatter_add", "aten::scatter_add_", "aten::index_put_"}
    assert "aten::segment_reduce" in operations.names
    assert not operations.names & atomic


def test_large_logits_do_not_overflow():
    query, key, offsets = inputs([5, 5])
    lse = document_lse(query * 1e4, key, offsets)
    assert lse.isfinite().all()


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (torch.tensor([0, 2, 2]), "rise strictly"),
        (torch.tensor([0, 99]), "within the 5 keys"),
        (torch.tensor([0]), "at least one document"),
        (torch.tensor([0.0, 1.0]), "int64"),
    ],
)
def test_offsets_that_describe_no_documents_are_refused(offsets, message):
    with pytest.raises(ValueError, match=message):
        document_lse(torch.zeros(1, 2, 4), torch.zeros(5, 2, 4), offsets)
