"""Decoder layers in Triton: merged projections and row-wise kernels compute what Transformers' own modules do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.model import fused_decoder
from blockrank_rerank.model.backbone import ATTENTION_NAME, Backbone, Pass
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.families import DECODERS, layers_of
from blockrank_rerank.model.fused_decoder import (
    FusedAttention,
    FusedFeedForward,
    FusedLayer,
    FusedNorm,
    fuse_decoder_layers,
    uses_triton,
)
from blockrank_rerank.model.layout import build_layout
from blockrank_rerank.text.prompt import EncodedRequest
from tests.interpreter import import_triton
from tests.tiny_models import CONFIG, FAMILIES, save_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
REQUEST = EncodedRequest([5, 9, 30], [[7, 8, *range(40, 60)], [11], [3, 200, 201, 12]], [20, 21, 22], [False] * 3)
CLOSE = {"atol": 2e-5, "rtol": 2e-5}
SANDWICHES = ("gemma2", "gemma3_text", "gemma3_text-bidirectional")

import_triton()


def base_model(folder, layers=2):
    config = AutoConfig.from_pretrained(folder)
    network = Checkpoint(model=str(folder)).truncated_model(config, layers, torch.float32, ATTENTION_NAME)
    return network.to(DEVICE)


def states_of(model):
    """States after both layers, by torch's attention: what is fused is compared and nothing else."""
    states = []
    hooks = [layer.register_forward_hook(lambda *call: states.append(call[2][0])) for layer in layers_of(model)]
    backbone = Backbone(model, replace(CONFIG, scoring_layer=2, scoring_head=True), None, "sdpa")
    with torch.no_grad():
        backbone.final_states(build_layout([REQUEST], CONFIG.query_offset))
    for hook in hooks:
        hook.remove()
    return states


@pytest.fixture(params=[name for name, (kind, _) in FAMILIES.items() if kind in DECODERS])
def family(request, tmp_path):
    return request.param, save_model(tmp_path, request.param)


def test_every_decoder_is_fused_and_computes_the_same(family):
    name, folder = family
    plain, fused = base_model(folder), base_model(folder)
    before = {name: parameter.clone() for name, parameter in fused.named_parameters()}
    fuse_decoder_layers(fused)
    for layer in layers_of(fused):
        assert isinstance(layer.self_attn, FusedAttention)
        assert isinstance(layer.mlp, FusedFeedForward)
        assert isinstance(layer, FusedLayer) == (name not in SANDWICHES)
        assert {type(module) for module in layer.modules() if "Norm" in type(module).__name__} == {FusedNorm}
    after = dict(fused.named_parameters())
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    torch.testing.assert_close(states_of(fused), states_of(plain), **CLOSE)


HALF = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
VARIANTS = [
    ("phi3", {"rope_parameters": HALF}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 0.1}),
    ("mistral", {"hidden_act": "gelu_pytorch_tanh"}),
    ("gemma3_text", {"attn_logit_softcapping": 0.1}),
]
"""Settings that change what a class computes; Gemma 3 has the last one and does not use it."""


@pytest.mark.parametrize(("family_name", "settings"), VARIANTS, ids=lambda of: of if isinstance(of, str) else "")
def test_settings_of_a_family_are_honoured(family_name, settings, tmp_path):
    folder = save_model(tmp_path, family_name, **settings)
    plain, fused = base_model(folder), base_model(folder)
    fuse_decoder_layers(fused)
    assert isinstance(layers_of(fused)[0].self_attn, FusedAttention)
    assert isinstance(layers_of(fused)[0].mlp, FusedFeedForward)
    torch.testing.assert_close(states_of(fused), states_of(plain), **CLOSE)


@pytest.mark.parametrize("family_name", ["qwen2", "phi3"])
def test_merged_weights_take_no_memory_of_their_own(family_name, tmp_path):
    fused = base_model(save_model(tmp_path, family_name))
    nbytes = sum(parameter.nbytes for parameter in fused.parameters())
    fuse_decoder_layers(fused)
    merged = [tensor for layer in layers_of(fused) for part in (layer.self_attn, layer.mlp) for tensor in part.merged]
    tensors = [*fused.parameters(), *(tensor for tensor in merged if tensor is not None)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    assert sum(storages.values()) == nbytes


class OtherNorm(nn.Module):
    """Normalises otherwise than any that is known."""

    def __init__(self, weight):
        super().__init__()
        self.weight, self.variance_epsilon = weight, 1e-6

    def forward(self, states):
        return states / states.abs().amax(-1, keepdim=True) * self.weight


def other_norms(layer, monkeypatch):
    layer.input_layernorm = OtherNorm(layer.input_layernorm.weight)
    layer.post_attention_layernorm = OtherNorm(layer.post_attention_layernorm.weight)


def named_alike(layer, monkeypatch):
    """A class of a model's own code that is called as one of Transformers'."""
    alike = type("LlamaRMSNorm", (OtherNorm,), {})
    for place in ("input_layernorm", "post_attention_layernorm"):
        setattr(layer, place, alike(getattr(layer, place).weight))


def wide_norms(layer, monkeypatch):
    monkeypatch.setattr(fused_decoder, "MAX_ROW_WIDTH", 31)


def other_head_norms(layer, monkeypatch):
    layer.self_attn.q_norm = OtherNorm(layer.self_attn.q_norm.weight)


def another_linear_layer(layer, monkeypatch):
    layer.self_attn.k_proj.__class__ = type("Rounded", (nn.Linear,), {})


def one_bias(layer, monkeypatch):
    layer.self_attn.q_proj.bias = nn.Parameter(torch.ones(32, device=DEVICE), requires_grad=False)


def another_attention(layer, monkeypatch):
    layer.self_attn.__class__ = type("Own", (type(layer.self_attn),), {})


def another_activation(layer, monkeypatch):
    layer.mlp.act_fn = nn.GELU()


NORM_PLACES = ("input_layernorm", "post_attention_layernorm")
CASES = [
    ("llama", other_norms, ("", *NORM_PLACES)),
    ("llama", named_alike, ("", *NORM_PLACES)),
    ("llama", wide_norms, ("", *NORM_PLACES)),
    ("qwen3", other_head_norms, ("self_attn",)),
    ("llama", another_linear_layer, ("self_attn",)),
    ("llama", one_bias, ("self_attn",)),
    ("llama", another_attention, ("self_attn",)),
    ("llama", another_activation, ("mlp",)),
]


@pytest.mark.parametrize(("family_name", "change", "places"), CASES, ids=lambda of: getattr(of, "__name__", ""))
def test_what_is_not_known_stays_as_it_is(family_name, change, places, tmp_path, monkeypatch):
    folder = save_model(tmp_path, family_name)
    plain, fused = base_model(folder), base_model(folder)
    for model in (plain, fused):
        change(layers_of(model)[1], monkeypatch)
    kinds = [type(layers_of(fused)[1].get_submodule(place)) for place in places]
    fuse_decoder_layers(fused)
    layer = layers_of(fused)[1]
    assert [type(layer.get_submodule(place)) for place in places] == kinds
    assert isinstance(layer.mlp, FusedFeedForward) != ("mlp" in places)
    torch.testing.assert_close(states_of(fused), states_of(plain), **CLOSE)


def ranker(folder, attention, **settings):
    return BlockRankReranker.from_pretrained(folder, device=DEVICE, dtype="float32", attention=attention, **settings)


def is_fused(ranker):
    return [isinstance(layer, FusedLayer) for layer in layers_of(ranker.engine.backbone.model)]


def test_only_triton_by_name_or_on_a_gpu_fuses_and_what_is_saved_or_stored_is_the_same(tmp_path):
    folder = save_model(tmp_path / "model", "llama")
    CONFIG.save(folder)
    plain, fused = ranker(folder, "sdpa"), ranker(folder, "triton")
    assert set(is_fused(fused)) == {True}
    assert set(is_fused(plain)) | set(is_fused(ranker(folder, "reference"))) == {False}
    assert set(is_fused(ranker(folder, "auto"))) == {DEVICE == "cuda"}
    assert fused.engine.fingerprint == plain.engine.fingerprint
    plain.save_pretrained(tmp_path / "plain")
    fused.save_pretrained(tmp_path / "fused")
    saved, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("fused", "plain"))
    assert list(saved) == list(expected)
    assert all(torch.equal(saved[name], expected[name]) for name in saved)


def test_auto_means_triton_where_it_runs_on_a_gpu(tmp_path, monkeypatch):
    weights = nn.Linear(2, 2)
    assert not uses_triton("auto", weights)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    assert uses_triton("auto", weights)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert uses_triton("auto", weights) == (DEVICE == "cuda")
    assert not uses_triton("sdpa", weights)


def test_kept_states_do_not_keep_the_product_that_they_were_part_of(tmp_path):
    model = base_model(save_model(tmp_path, "llama"))
    fuse_decoder_layers(model)
    new_states = {}
    config = replace(CONFIG, scoring_layer=1, query_documents_from_layer=0)
    layout = build_layout([replace(REQUEST, query=[])], CONFIG.query_offset)
    with torch.no_grad():
        Backbone(model, config, None, "sdpa")._run(Pass(layout, config, "sdpa", new_states=new_states))
    assert len(new_states) == 3
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in new_states.values())
