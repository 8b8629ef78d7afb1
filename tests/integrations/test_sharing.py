from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

pytest.importorskip("llama_index.core", reason="needs the llama-index extra")
pytest.importorskip("haystack", reason="needs the haystack extra")
pytest.importorskip("langchain_core", reason="needs the langchain extra")

from haystack import Document as HaystackDocument
from haystack_integrations.components.rankers.blockrank import BlockRankRanker
from langchain_blockrank import BlockRankRerank as LangChainRerank
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.blockrank_rerank import BlockRankRerank as LlamaIndexRerank

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine.engine import Engine
from tests.integrations.conftest import QUESTION, TEXTS


def test_adapters_of_all_frameworks_with_equal_settings_load_one_model_under_a_race(monkeypatch):
    loads, load = [], Engine.load.__func__

    def counting(cls, spec):
        loads.append(spec)
        return load(cls, spec)

    monkeypatch.setattr(Engine, "load", classmethod(counting))
    settings = {"max_document_tokens": 63, "dtype": "float32", "device": "cpu"}
    llama_index, langchain = LlamaIndexRerank(**settings), LangChainRerank(**settings)
    haystack = BlockRankRanker(**{**settings, "device": None, "token": None})
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    documents = [HaystackDocument(content=text) for text in TEXTS]
    calls = [
        lambda: llama_index.postprocess_nodes(nodes, query_str=QUESTION),
        lambda: langchain.rerank(TEXTS, QUESTION),
        lambda: haystack.run(QUESTION, documents),
    ] * 5
    with ThreadPoolExecutor(15) as threads:
        list(threads.map(lambda call: call(), calls))
    # One with device="cpu", one that leaves the device open.
    assert len(loads) == len({spec.device for spec in loads}) == 2


def test_adapters_read_a_document_once_with_a_cache_and_not_at_all_with_a_store(tmp_path, monkeypatch):
    BlockRankReranker.from_pretrained(dtype="float32").prepare_store(tmp_path, TEXTS)
    read, states = [], Engine.document_states
    monkeypatch.setattr(
        Engine, "document_states", lambda self, texts, *rest: read.extend(texts) or states(self, texts, *rest)
    )
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    documents = [HaystackDocument(content=text) for text in TEXTS]
    for settings, expected in (({"cache": "10MB"}, len(set(TEXTS))), ({"store": str(tmp_path)}, 0)):
        llama_index = LlamaIndexRerank(**settings, dtype="float32")
        langchain = LangChainRerank(**settings, dtype="float32")
        haystack = BlockRankRanker(**settings, dtype="float32")
        for call in (
            partial(llama_index.postprocess_nodes, nodes, query_str=QUESTION),
            partial(langchain.rerank, TEXTS, QUESTION),
            partial(haystack.run, QUESTION, documents),
        ):
            read.clear()
            call()
            call()
            assert len(read) == expected


def test_adapters_take_a_budget_of_memory(monkeypatch):
    budgets, score = [], Engine.score
    monkeypatch.setattr(
        Engine,
        "score",
        lambda self, batch: budgets.append(self.budget.max_memory) or score(self, batch),
    )
    rank_with_every_adapter(max_memory="50MB", dtype="float32")
    assert budgets == [50_000_000] * 3


def rank_with_every_adapter(**settings):
    LlamaIndexRerank(**settings).postprocess_nodes(
        [NodeWithScore(node=TextNode(text=text)) for text in TEXTS], query_str=QUESTION
    )
    LangChainRerank(**settings).rerank(TEXTS, QUESTION)
    BlockRankRanker(**settings).run(QUESTION, [HaystackDocument(content=text) for text in TEXTS])


def test_adapters_hand_on_where_the_cache_lies_and_what_is_rounded(monkeypatch):
    given, load = [], BlockRankReranker.from_pretrained.__func__

    def recording(cls, model, **settings):
        given.append({name: settings.pop(name) for name in ("cache_device", "quantization")})
        return load(cls, model, **settings)

    monkeypatch.setattr(BlockRankReranker, "from_pretrained", classmethod(recording))
    rank_with_every_adapter(cache="1MB", cache_device="cpu", quantization="int8")
    assert given == [{"cache_device": "cpu", "quantization": "int8"}] * 3
