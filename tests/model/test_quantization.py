"""Linear layers in 8-bit floating point. Torch multiplies it on a CPU too, slowly; torchao's refusal is overruled."""

from __future__ import annotations

import copy

import pytest
import torch
from blockrank_kernels.gpu import Verdict

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.model import linear as quantization
from blockrank_rerank.model.linear import quantize_linear_layers
from tests.states.test_prepared import DOCUMENTS, QUERIES, assert_same, save_family

E4M3_MAX = 448.0


@pytest.fixture
def float8_on_a_cpu(monkeypatch):
    pytest.importorskip("torchao")
    import torchao.quantization.quant_api as quant_api

    monkeypatch.setattr(quantization, "float8_on", lambda device: Verdict(True, "for this test"))
    monkeypatch.setattr(quant_api, "_check_hardware_support", lambda granularity: None)


@pytest.fixture(params=["mistral", "bert"])
def folder(request, tmp_path):
    return save_family(tmp_path / request.param, request.param)


def load(folder, **settings):
    return BlockRankReranker.from_pretrained(folder, device="cpu", dtype="bfloat16", **settings).query_free()


def rounded(rows):
    """Every row in e4m3 with a scale of its own, which torchao rounds to the rows' dtype."""
    scale = (rows.abs().amax(1, keepdim=True) / E4M3_MAX).bfloat16().double()
    return (rows / scale).to(torch.float8_e4m3fn).double() * scale


def linear(rows=40, bias=True):
    torch.manual_seed(0)
    return torch.nn.Linear(64, 32, bias, dtype=torch.bfloat16).requires_grad_(False), torch.randn(rows, 64).bfloat16()


@pytest.mark.parametrize("bias", [True, False])
def test_weights_and_inputs_are_rounded_row_by_row(bias, float8_on_a_cpu):
    layer, inputs = linear(bias=bias)
    weight = layer.weight.double()
    expected = rounded(inputs.double()) @ rounded(weight).T + (layer.bias.double() if bias else 0)
    model = torch.nn.Sequential(layer)
    quantize_linear_layers(model)
    assert torch.allclose(model(inputs).double(), expected, atol=2e-2)
    assert not torch.allclose(layer(inputs).double(), linear(bias=bias)[0](inputs).double(), atol=2e-2)


def test_a_row_does_not_depend_on_the_others(float8_on_a_cpu):
    layer, inputs = linear()
    model = torch.nn.Sequential(layer)
    quantize_linear_layers(model)
    beside_a_giant = torch.cat([inputs, 1e4 * inputs[:1]])
    assert torch.equal(model(beside_a_giant)[:-1], model(inputs))


def test_layers_of_odd_sizes_stay(float8_on_a_cpu):
    model = torch.nn.Sequential(torch.nn.Linear(64, 24, dtype=torch.bfloat16), torch.nn.LayerNorm(24))
    before = copy.deepcopy(model.state_dict())
    quantize_linear_layers(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_scores_change_by_what_is_rounded(folder, float8_on_a_cpu):
    plain, ranker = load(folder), load(folder, quantization="float8")
    for query in QUERIES:
        expected, got = ({one.index: one.raw_score for one in r.rank(query, DOCUMENTS)} for r in (plain, ranker))
        assert got == pytest.approx(expected, abs=1.0)
        assert got != pytest.approx(expected, abs=1e-3)


def test_documents_are_independent_and_can_be_prepared(folder, float8_on_a_cpu):
    ranker = load(folder, quantization="float8")
    prepared = ranker.prepare(DOCUMENTS)
    for query in QUERIES:
        assert_same(ranker.rank(query, prepared), ranker.rank(query, DOCUMENTS), tolerance=5e-3)


def test_states_of_other_products_are_refused(folder, tmp_path, float8_on_a_cpu):
    plain, ranker = load(folder), load(folder, quantization="float8")
    with pytest.raises(ValueError, match="documents were prepared by another model"):
        ranker.rank(QUERIES[0], plain.prepare(DOCUMENTS))
    plain.prepare_store(tmp_path / "store", DOCUMENTS)
    with pytest.raises(ValueError, match=r"dtype of the model 'bfloat16' and not 'bfloat16, float32, float8_e4m3fn'"):
        ranker.prepare_store(tmp_path / "store", DOCUMENTS)


def test_an_unknown_name():
    with pytest.raises(ValueError, match="quantization must be float8 or int8, or nothing, got 'int4'"):
        BlockRankReranker.from_pretrained(quantization="int4")


def test_a_device_that_cannot(monkeypatch):
    monkeypatch.setattr(quantization, "has_torchao", lambda: True)
    ranker = BlockRankReranker.from_pretrained(device="cpu", quantization="float8")
    with pytest.raises(ValueError, match="quantization float8 cannot run on cpu: needs an NVIDIA GPU"):
        ranker.rank("q", ["a"])


def test_without_torchao(monkeypatch):
    monkeypatch.setattr(quantization, "has_torchao", lambda: False)
    ranker = BlockRankReranker.from_pretrained(device="cpu", quantization="float8")
    with pytest.raises(ImportError, match=r"needs torchao; .*pip install '\.\[float8\]'"):
        ranker.rank("q", ["a"])


def test_another_dtype(monkeypatch):
    monkeypatch.setattr(quantization, "has_torchao", lambda: True)
    monkeypatch.setattr(quantization, "float8_on", lambda device: Verdict(True, "for this test"))
    ranker = BlockRankReranker.from_pretrained(device="cpu", dtype="float32", quantization="float8")
    with pytest.raises(ValueError, match="quantization float8 needs dtype bfloat16, got float32"):
        ranker.rank("q", ["a"])
