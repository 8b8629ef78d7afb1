"""Retrievers of all frameworks find what searching the store finds."""

from __future__ import annotations

import asyncio
import inspect
import pickle

import pytest

pytest.importorskip("llama_index.core", reason="needs the llama-index extra")
pytest.importorskip("haystack", reason="needs the haystack extra")
pytest.importorskip("langchain_core", reason="needs the langchain extra")

from haystack import Pipeline
from haystack_integrations.components.retrievers.blockrank import BlockRankRetriever as HaystackRetriever
from langchain_blockrank import BlockRankRetriever as LangChainRetriever
from llama_index.retrievers.blockrank_rerank import BlockRankRetriever as LlamaIndexRetriever

from blockrank_rerank import BlockRankReranker
from tests.integrations.conftest import CUT, QUESTION, TEXTS

CORPUS = [{"id": f"d{n}", "text": text} for n, text in enumerate(TEXTS)]
CORPUS += [{"id": "titled", "title": "Heart", "text": "It beats."}, {"id": "long", "text": CUT}, "without an id"]
OPTIONS = {"max_document_tokens": 20}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    BlockRankReranker.from_pretrained(**OPTIONS).prepare_store(folder, CORPUS)
    return folder


@pytest.fixture(scope="module")
def found(store):
    """As every adapter gives it: id, text, score, title, probability and passage."""
    return [
        (d.id, d.text, d.probability, d.document.title, d.probability, None if d.passage is None else [*d.passage])
        for d in BlockRankReranker.from_pretrained(**OPTIONS).search(store, QUESTION, 4)
    ]


def of_metadata(name, text, score, metadata):
    return name, text, score, metadata.get("title"), metadata["probability"], metadata.get("passage")


def with_haystack(store, query=QUESTION, top_k=4, **settings):
    documents = HaystackRetriever(str(store), top_k=top_k, **OPTIONS, **settings).run(query)["documents"]
    return [of_metadata(d.id, d.content, d.score, d.meta) for d in documents]


def with_langchain(store, query=QUESTION, top_k=4, **settings):
    documents = LangChainRetriever(store=store, k=top_k, **OPTIONS, **settings).invoke(query)
    return [of_metadata(d.id, d.page_content, d.metadata["relevance_score"], d.metadata) for d in documents]


def with_llama_index(store, query=QUESTION, top_k=4, **settings):
    nodes = LlamaIndexRetriever(store, top_k, **OPTIONS, **settings).retrieve(query)
    return [of_metadata(n.node.node_id, n.node.text, n.score, n.node.metadata) for n in nodes]


RETRIEVERS = [with_haystack, with_langchain, with_llama_index]


@pytest.mark.parametrize("retrieve", RETRIEVERS)
def test_ids_texts_and_scores_are_those_of_the_store_and_of_search(retrieve, store, found):
    assert retrieve(store) == found
    assert retrieve(store, approximate=True) == found
    assert "long" in [name for name, *_ in found]


@pytest.mark.parametrize("retrieve", RETRIEVERS)
def test_thresholds_leave_what_reaches_them(retrieve, store, found):
    least = found[1][2]
    assert retrieve(store, min_probability=least) == retrieve(store, score_threshold=least) == found[:2]


@pytest.mark.parametrize("retrieve", RETRIEVERS)
def test_a_folder_that_is_no_store_and_an_empty_query_are_refused(retrieve, store, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no prepared documents"):
        retrieve(tmp_path)
    with pytest.raises(ValueError, match="query must not be empty"):
        retrieve(store, " ")


def test_documents_without_an_id_have_one_of_the_framework(store):
    nodes = LlamaIndexRetriever(store, None, **OPTIONS).retrieve(QUESTION)
    documents = HaystackRetriever(str(store), top_k=20, **OPTIONS).run(QUESTION)["documents"]
    assert len(nodes) == len(documents) == len(CORPUS)
    assert all(node.node.node_id for node in nodes)
    assert all(document.id for document in documents)


def test_a_saved_pipeline_retrieves_the_same(store, found):
    pipeline = Pipeline()
    pipeline.add_component("retriever", HaystackRetriever(str(store), top_k=4, **OPTIONS))
    again = Pipeline.loads(pipeline.dumps())
    documents = again.run({"retriever": {"query": QUESTION, "top_k": 3}})["retriever"]["documents"]
    assert [document.id for document in documents] == [name for name, *_ in found[:3]]


def test_a_component_saves_every_setting(store):
    settings = {"score_threshold": 0.1, "min_probability": 0.2, "score_type": "raw", "approximate": True, **OPTIONS}
    saved = HaystackRetriever(str(store), top_k=4, **settings).to_dict()
    assert {*saved["init_parameters"]} == {*inspect.signature(HaystackRetriever.__init__).parameters} - {"self"}
    assert saved["init_parameters"].items() >= {"top_k": 4, **settings}.items()
    assert HaystackRetriever.from_dict(saved).to_dict() == saved


def test_retrievers_are_awaited(store, found):
    async def ask():
        langchain = await LangChainRetriever(store=str(store), k=4, **OPTIONS).ainvoke(QUESTION)
        llama_index = await LlamaIndexRetriever(store, 4, **OPTIONS).aretrieve(QUESTION)
        haystack = await HaystackRetriever(str(store), top_k=4, **OPTIONS).run_async(QUESTION)
        return [d.id for d in langchain], [n.node.node_id for n in llama_index], [d.id for d in haystack["documents"]]

    ids = [name for name, *_ in found]
    assert asyncio.run(ask()) == (ids, ids, ids)


def test_langchain_s_retriever_goes_through_a_pickle_and_needs_a_store(store, found):
    again = pickle.loads(pickle.dumps(LangChainRetriever(store=str(store), k=4, **OPTIONS)))
    assert [document.id for document in again.invoke(QUESTION)] == [name for name, *_ in found]
    with pytest.raises(ValueError, match="store must be a folder made by 'blockrank prepare', got None"):
        LangChainRetriever()
