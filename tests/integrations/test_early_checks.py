from __future__ import annotations

import pytest
import torch

pytest.importorskip("llama_index.core", reason="needs the llama-index extra")
pytest.importorskip("haystack", reason="needs the haystack extra")
pytest.importorskip("langchain_core", reason="needs the langchain extra")
pytest.importorskip("rerankers", reason="needs the rerankers extra")

from haystack.utils import ComponentDevice
from haystack_integrations.components.rankers.blockrank import BlockRankRanker as HaystackRanker
from langchain_blockrank import BlockRankCrossEncoder as LangChainCrossEncoder
from langchain_blockrank import BlockRankRerank as LangChainRerank
from llama_index.postprocessor.blockrank_rerank import BlockRankRerank as LlamaIndexRerank
from rerankers_blockrank import BlockRankRanker as RerankersRanker

from blockrank_rerank import BlockRankCrossEncoder, BlockRankReranker
from blockrank_rerank.engine.engine import Engine
from blockrank_rerank.model.devices import check_device

ADAPTERS = [LlamaIndexRerank, LangChainRerank, LangChainCrossEncoder, HaystackRanker, RerankersRanker]
PLAIN = [HaystackRanker, RerankersRanker, BlockRankCrossEncoder, BlockRankReranker.from_pretrained]
REFUSED = [
    ({"dtype": "fp16"}, "dtype must be float32"),
    ({"dtype": "int8"}, "dtype must be float32"),
    ({"max_document_tokens": -5}, "max_document_tokens must be a whole number of at least 1, got -5"),
    ({"max_document_tokens": 0}, "max_document_tokens must be a whole number of at least 1, got 0"),
    ({"long_documents": "cut"}, "long_documents"),
    ({"cache": "lots"}, "cache"),
    ({"max_memory": -1}, "max_memory"),
]


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    monkeypatch.setattr(Engine, "load", None)


@pytest.mark.parametrize(("options", "found"), REFUSED)
@pytest.mark.parametrize("adapter", [*ADAPTERS, BlockRankCrossEncoder, BlockRankReranker.from_pretrained])
def test_what_an_option_cannot_be_is_refused_when_the_object_is_built(adapter, options, found):
    with pytest.raises(ValueError, match=found):
        adapter(**options)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_what_the_models_config_forbids_is_refused_then_too(adapter):
    with pytest.raises(ValueError, match="scoring_layer"):
        adapter(scoring_layer=99)
    with pytest.raises(ValueError, match="prune: layers must be in"):
        adapter(prune={99: 5})


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "gpu", "meta"])
def test_a_device_that_is_not_here_is_refused_when_the_object_is_built(device):
    for adapter in (LlamaIndexRerank, LangChainRerank, LangChainCrossEncoder, RerankersRanker):
        with pytest.raises(ValueError, match="device must be one that torch can use here"):
            adapter(device=device)
    if device.startswith("cuda"):
        with pytest.raises(ValueError, match="device must be one that torch can use here"):
            HaystackRanker(device=ComponentDevice.from_str(device))


def test_looking_for_a_device_does_not_start_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "_lazy_init", None)
    for device in (None, "auto", "cpu", "cuda", "cuda:1", torch.device("cuda", 1)):
        check_device(device)
    with pytest.raises(ValueError, match="this machine has 2 cuda devices that torch can use"):
        check_device("cuda:2")


@pytest.mark.parametrize("model", ["", "  "])
def test_a_model_without_a_name_is_refused_at_once(model):
    for adapter in (LlamaIndexRerank, LangChainRerank, HaystackRanker):
        with pytest.raises(ValueError, match="model must be a folder or a Hub id"):
            adapter(model=model)
    for adapter in (RerankersRanker, BlockRankCrossEncoder):
        with pytest.raises(ValueError, match="model must be a folder or a Hub id"):
            adapter(model)


def test_a_model_that_is_a_number_is_refused_at_once():
    for adapter in (HaystackRanker, RerankersRanker, BlockRankReranker.from_pretrained):
        with pytest.raises(ValueError, match="model must be a folder or a Hub id, got 1"):
            adapter(1)


@pytest.mark.parametrize("name", ["local_files_only", "trust_remote_code"])
def test_a_text_is_neither_true_nor_false(name):
    for adapter in PLAIN:
        with pytest.raises(ValueError, match=f"{name} must be True or False, got 'false'"):
            adapter(**{name: "false"})


def test_settings_of_a_saved_component_are_checked_when_it_is_loaded():
    saved = HaystackRanker().to_dict()
    for name, value in (
        ("dtype", "fp16"),
        ("max_document_tokens", -5),
        ("top_k", 0),
        ("explain", "yes"),
        ("model", ""),
    ):
        changed = {**saved, "init_parameters": {**saved["init_parameters"], name: value}}
        with pytest.raises(ValueError, match=name):
            HaystackRanker.from_dict(changed)
    dump = LangChainRerank().model_dump()
    for name, value in (("dtype", "fp16"), ("top_n", -1), ("score_threshold", "high"), ("score_type", "logit")):
        with pytest.raises(ValueError, match=name):
            LangChainRerank(**{**dump, name: value})
    with pytest.raises(ValueError, match="max_document_tokens"):
        LlamaIndexRerank.from_dict({**LlamaIndexRerank().to_dict(), "max_document_tokens": -5})


@pytest.mark.parametrize("top_k", [0, -1])
def test_haystack_refuses_in_its_own_words(top_k):
    with pytest.raises(ValueError, match=f"top_k must be > 0, but got {top_k}"):
        HaystackRanker(top_k=top_k)
