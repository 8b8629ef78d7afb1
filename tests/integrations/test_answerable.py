"""Whether the list holds an answer reaches the users of every framework, where they would look for it."""

from __future__ import annotations

import pytest

pytest.importorskip("llama_index.core", reason="needs the llama-index extra")
pytest.importorskip("haystack", reason="needs the haystack extra")
pytest.importorskip("langchain_core", reason="needs the langchain extra")
pytest.importorskip("rerankers", reason="needs the rerankers extra")

from haystack import Document as HaystackDocument
from haystack import Pipeline
from haystack.components.builders import PromptBuilder
from haystack.components.joiners import DocumentJoiner
from haystack_integrations.components.rankers.blockrank import BlockRankContext, BlockRankRanker
from langchain_blockrank import BlockRankRerank as LangChainRerank
from langchain_core.documents import Document as LangChainDocument
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.blockrank_rerank import BlockRankRerank as LlamaIndexRerank
from rerankers_blockrank import BlockRankRanker as RerankersRanker

from tests.integrations.conftest import QUESTION, TEXTS

WAYS = [{}, {"explain": True}, {"max_tokens": 40}]


def by_llama_index(**settings):
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    return [one.node for one in LlamaIndexRerank(**settings).postprocess_nodes(nodes, query_str=QUESTION)]


def by_langchain(**settings):
    documents = [LangChainDocument(page_content=text) for text in TEXTS]
    return LangChainRerank(**settings).compress_documents(documents, QUESTION)


@pytest.mark.parametrize("settings", WAYS)
@pytest.mark.parametrize("adapter", [by_llama_index, by_langchain])
def test_the_metadata_of_every_document_say_it_of_the_whole_list(ranking, adapter, settings):
    found = adapter(top_n=2, **settings)
    assert found
    assert [one.metadata["answerable"] for one in found] == pytest.approx([ranking.answerable] * len(found), abs=1e-3)


def test_neither_the_embedding_model_nor_the_llm_reads_it():
    for node in by_llama_index():
        assert "answerable" not in node.get_content("embed") + node.get_content("llm")


def test_the_metadata_of_rerankers_say_it(ranking):
    for result in RerankersRanker("default", 0).rank(QUESTION, TEXTS):
        assert result.document.metadata["answerable"] == pytest.approx(ranking.answerable, abs=1e-3)


@pytest.mark.parametrize(
    "component", [BlockRankRanker(min_probability=1.0), BlockRankRanker(explain=True), BlockRankContext(max_tokens=40)]
)
def test_a_component_has_an_output_for_it_that_also_speaks_where_no_document_is_wanted(ranking, component):
    found = component.run(QUESTION, [HaystackDocument(content=text) for text in TEXTS])
    assert found["answerable"] == pytest.approx(ranking.answerable, abs=1e-3)
    assert not any("answerable" in document.meta for document in found["documents"])
    assert component.run(QUESTION, [])["answerable"] is None


@pytest.mark.parametrize("ranker", [BlockRankRanker, BlockRankContext])
def test_components_are_connected_by_their_names_alone_beside_the_output(ranker):
    pipeline = Pipeline()
    pipeline.add_component("first", ranker())
    pipeline.add_component("second", ranker())
    pipeline.add_component("joiner", DocumentJoiner())
    pipeline.add_component("prompt", PromptBuilder("{{ documents }} {{ answerable }}", required_variables="*"))
    for sender, receiver in (("first", "second"), ("second", "joiner"), ("joiner", "prompt")):
        pipeline.connect(sender, receiver)
    pipeline.connect("second.answerable", "prompt.answerable")
    asked = {"query": QUESTION}
    given = {"first": asked | {"documents": [HaystackDocument(content=TEXTS[1])]}, "second": asked}
    assert pipeline.run(given)["prompt"]["prompt"]


def test_of_a_list_of_which_it_is_not_known_nothing_is_said():
    # With early layers that drop documents, no head says it.
    settings = {"prune": {1: 2}}
    for one in [*by_llama_index(**settings), *by_langchain(**settings)]:
        assert "answerable" not in one.metadata
    ranker = BlockRankRanker(**settings)
    assert ranker.run(QUESTION, [HaystackDocument(content=text) for text in TEXTS])["answerable"] is None
