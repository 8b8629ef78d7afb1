"""Attention that was asked for by name computes every way of ranking, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from blockrank_kernels.block_attention import api as block_attention
from blockrank_kernels.block_attention.triton import tile_sizes
from blockrank_kernels.document_lse import api as document_lse
from blockrank_kernels.gated_activation import api as gated_activation
from blockrank_kernels.last_rows_attention import api as last_rows_attention
from blockrank_kernels.rms_norm import api as rms_norm
from blockrank_kernels.rotary import api as rotary

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine import budget
from blockrank_rerank.model import devices
from blockrank_rerank.model.scoring_head import ScoringHead
from tests.interpreter import import_triton
from tests.model.test_families import global_layers
from tests.tiny_models import BERT_CONFIG, CONFIG, randomise, save_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DOCUMENTS = ["a heart attack", "sugar", ""]
QUERY = "what treats a heart attack"
OPERATIONS = (block_attention, document_lse, last_rows_attention, rms_norm, rotary, gated_activation)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    saved = {}
    prompt = replace(
        CONFIG.prompt, instruction="Rank:", document="| {text}", query="? {query}", answer=" ", answer_start=""
    )
    for family in ("llama", "gemma2"):
        saved[family] = save_model(tmp_path_factory.mktemp(family), family)
        layer = global_layers(family)[-1]
        replace(CONFIG, prompt=prompt, scoring_layer=layer, query_documents_from_layer=layer - 2).save(saved[family])
    saved["bert"] = save_model(
        tmp_path_factory.mktemp("bert"), "bert", hidden_size=272, num_attention_heads=17, num_hidden_layers=1
    )
    head = ScoringHead(272)
    randomise(head, seed=1)
    head.save(saved["bert"])
    replace(BERT_CONFIG, scoring_layer=1).save(saved["bert"])
    return saved


@pytest.fixture(autouse=True)
def large_tiles(monkeypatch):
    """The interpreter takes as long for a small tile as for a large one."""
    if DEVICE == "cpu":
        monkeypatch.setattr(tile_sizes, "FULL_PRECISION", tile_sizes.TileSizes(128, 128, 8, 1))
        options = {"ROWS": 64, "KEYS": 64, "num_warps": 4, "num_stages": 1}
        monkeypatch.setattr(
            pytest.importorskip("blockrank_kernels.document_lse.triton"), "launch_options", lambda *_: options
        )


def ranker(folder, attention, **settings):
    return BlockRankReranker.from_pretrained(folder, device=DEVICE, dtype="float32", attention=attention, **settings)


def prepared(folder, attention, tmp_path, monkeypatch):
    made = ranker(folder, attention)
    return made.rank(QUERY, made.prepare(DOCUMENTS))


def prepared_in_parts(folder, attention, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "MIN_TOKENS", 20)
    made = ranker(folder, attention, max_memory=1)
    return made.rank(QUERY, made.prepare(DOCUMENTS))


def stored(folder, attention, tmp_path, monkeypatch):
    ranker(folder, attention).prepare_store(tmp_path / attention, DOCUMENTS)
    return ranker(folder, attention, store=tmp_path / attention).rank(QUERY, DOCUMENTS)


def beyond_the_budget(folder, attention, tmp_path, monkeypatch):
    profile = devices.profile_of(torch.device(DEVICE))._replace(budget_tokens=40)
    monkeypatch.setattr(devices, "PROFILES", {DEVICE: profile})
    return ranker(folder, attention).rank(QUERY, DOCUMENTS)


WAYS = [prepared, prepared_in_parts, stored, beyond_the_budget]


def scores(ranking):
    return [(document.index, pytest.approx(document.raw_score, abs=2e-4)) for document in ranking]


def refuse_others(monkeypatch, attention):
    """Break every implementation but the named one, and torch's own attention unless it is ``sdpa``."""

    def broken(*args, **kwargs):
        raise AssertionError(f"something else than {attention} ran")

    for operation in OPERATIONS:
        for name in {"reference", "sdpa", "triton"} - {attention}:
            monkeypatch.setitem(operation.IMPLEMENTATIONS, name, broken)
    if attention != "sdpa":
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", broken)


CASES = [
    *(("llama", "reference", way) for way in WAYS),
    *(("llama", "triton", way) for way in (prepared, prepared_in_parts, beyond_the_budget)),
    ("gemma2", "triton", prepared_in_parts),
]


@pytest.mark.parametrize(("family", "attention", "way"), CASES, ids=lambda of: getattr(of, "__name__", of))
def test_what_is_asked_for_by_name_reads_stored_states_too(folders, family, attention, way, tmp_path, monkeypatch):
    if attention == "triton":
        import_triton()
    with monkeypatch.context() as patch:
        expected = way(folders[family], "sdpa", tmp_path, patch)
    refuse_others(monkeypatch, attention)
    got = way(folders[family], attention, tmp_path, monkeypatch)
    assert scores(got) == scores(expected)


def test_a_scoring_head_wider_than_a_tile_scores_with_triton(folders, monkeypatch):
    import_triton()
    expected = ranker(folders["bert"], "sdpa").rank(QUERY, DOCUMENTS)
    refuse_others(monkeypatch, "triton")
    assert scores(ranker(folders["bert"], "triton").rank(QUERY, DOCUMENTS)) == scores(expected)


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"head_dim": 512}, {}, "head dimensions up to 256, got 512; use auto or sdpa"),
        ({}, {"dtype": "float64"}, "take .*float32, got torch.float64; use auto or sdpa"),
    ],
    ids=["head_dim", "dtype"],
)
def test_a_model_that_triton_cannot_run_is_refused_when_it_is_loaded(changes, settings, message, tmp_path):
    import_triton()
    folder = save_model(tmp_path, "llama", **changes)
    CONFIG.save(folder)
    made = BlockRankReranker.from_pretrained(folder, device=DEVICE, attention="triton", **settings)
    with pytest.raises(ValueError, match=f"attention triton cannot run on .*{message}"):
        made.engine  # noqa: B018 - loads the model
