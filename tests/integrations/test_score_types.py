from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("llama_index.core", reason="needs the llama-index extra")
pytest.importorskip("haystack", reason="needs the haystack extra")
pytest.importorskip("langchain_core", reason="needs the langchain extra")
pytest.importorskip("rerankers", reason="needs the rerankers extra")

from haystack import Document as HaystackDocument
from haystack_integrations.components.rankers.blockrank import BlockRankRanker as HaystackRanker
from langchain_blockrank import BlockRankCrossEncoder as LangChainCrossEncoder
from langchain_blockrank import BlockRankRerank as LangChainRerank
from langchain_core.documents import Document as LangChainDocument
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.blockrank_rerank import BlockRankRerank as LlamaIndexRerank
from rerankers_blockrank import BlockRankRanker as RerankersRanker

from blockrank_rerank import BlockRankCrossEncoder, BlockRankReranker, RankedDocument
from blockrank_rerank.ranking.score_type import resolve_score_type, scored
from tests.integrations.conftest import QUESTION, TEXTS
from tests.tiny_models import CONFIG, save_model

LONG = "The flower show opens in May. " * 60 + TEXTS[1] + " The flower show opens in May." * 60


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """Whoever holds an engine lets equal settings share it."""
    rerankers = [BlockRankReranker.from_pretrained(), BlockRankReranker.from_pretrained(dtype="float32")]
    for reranker in rerankers:
        reranker.rank(QUESTION, TEXTS)
    return rerankers


def by_llama_index(texts, **settings):
    nodes = [NodeWithScore(node=TextNode(id_=str(n), text=text)) for n, text in enumerate(texts)]
    found = LlamaIndexRerank(top_n=None, **settings).postprocess_nodes(nodes, query_str=QUESTION)
    return [(int(one.node.node_id), one.score, one.node.metadata) for one in found]


def by_haystack(texts, **settings):
    documents = [HaystackDocument(id=str(n), content=text) for n, text in enumerate(texts)]
    found = HaystackRanker(top_k=len(texts), **settings).run(QUESTION, documents)["documents"]
    return [(int(one.id), one.score, one.meta) for one in found]


def by_langchain(texts, **settings):
    documents = [LangChainDocument(id=str(n), page_content=text) for n, text in enumerate(texts)]
    found = LangChainRerank(top_n=None, **settings).compress_documents(documents, QUESTION)
    return [(int(one.id), one.metadata["relevance_score"], one.metadata) for one in found]


def by_langchains_cross_encoder(texts, **settings):
    scores = LangChainCrossEncoder(**settings).score([(QUESTION, text) for text in texts])
    return sorted(((n, score, {}) for n, score in enumerate(scores)), key=lambda one: -one[1])


def by_rerankers(texts, **settings):
    found = RerankersRanker("default", 0, **settings).rank(QUESTION, texts)
    return [(one.doc_id, one.score, one.metadata) for one in found]


def by_cross_encoder(texts, **settings):
    found = BlockRankCrossEncoder(**settings).rank(QUESTION, texts)
    return [(one["corpus_id"], one["score"], {}) for one in found]


DOCUMENTS = [by_llama_index, by_haystack, by_langchain, by_rerankers]
ALL = [*DOCUMENTS, by_langchains_cross_encoder, by_cross_encoder]
FILTERING = [by_llama_index, by_haystack, by_langchain]


@pytest.mark.parametrize("score_type", [None, "probability", "raw", "share"])
@pytest.mark.parametrize("adapter", ALL)
def test_every_adapter_gives_the_score_that_is_named(ranking, adapter, score_type):
    attribute = {None: "probability", "raw": "raw_score", "share": "score"}.get(score_type, score_type)
    expected = {document.index: getattr(document, attribute) for document in ranking}
    found = adapter(TEXTS, score_type=score_type)
    assert {index: score for index, score, _ in found} == pytest.approx(expected, abs=1e-6)
    assert [score for _, score, _ in found] == sorted((score for _, score, _ in found), reverse=True)


@pytest.mark.parametrize("score_type", [None, "raw"])
@pytest.mark.parametrize("adapter", ALL)
def test_a_score_does_not_depend_on_the_list(adapter, score_type):
    whole = {index: score for index, score, _ in adapter(TEXTS, score_type=score_type)}
    alone = {index: adapter([text], score_type=score_type)[0][1] for index, text in enumerate(TEXTS)}
    assert alone == pytest.approx(whole, abs=2e-3)


@pytest.mark.parametrize("adapter", FILTERING)
def test_a_threshold_cuts_by_the_score_that_is_named(ranking, adapter):
    for score_type, attribute in (("probability", "probability"), ("raw", "raw_score"), ("share", "score")):
        cut = getattr(ranking[2], attribute)
        found = adapter(TEXTS, score_type=score_type, score_threshold=cut)
        assert {index for index, _, _ in found} == {d.index for d in ranking if getattr(d, attribute) >= cut}


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("adapter", FILTERING)
def test_the_metadata_have_probability_and_the_passage_in_the_documents_own_text(adapter, explain):
    found = {index: metadata for index, _, metadata in adapter([LONG, TEXTS[0]], explain=explain, score_type="share")}
    assert all(0 < metadata["probability"] < 1 for metadata in found.values())
    start, end = found[0]["passage"]
    assert TEXTS[1] in LONG[start:end]
    assert "passage" not in found[1]
    assert json.loads(json.dumps(found[0])) == found[0]


def test_the_passage_is_counted_in_the_content_and_not_in_what_stands_around_it():
    node = TextNode(text=f"  {LONG}", metadata={"topic": "hearts " * 20})
    (found,) = LlamaIndexRerank().postprocess_nodes([NodeWithScore(node=node)], query_str=QUESTION)
    start, end = found.node.metadata["passage"]
    assert TEXTS[1] in node.text[start:end]
    assert "passage" not in found.node.get_content("embed")
    ranker = HaystackRanker(document_prefix="passage: ", meta_fields_to_embed=["topic"])
    document = HaystackDocument(content=LONG, meta={"topic": "hearts " * 20})
    start, end = ranker.run(QUESTION, [document])["documents"][0].meta["passage"]
    assert TEXTS[1] in LONG[start:end]


def test_a_compressed_text_has_no_passage_of_the_whole_one():
    document = LangChainDocument(page_content=LONG)
    (found,) = LangChainRerank(max_tokens=20).compress_documents([document], QUESTION)
    assert found.page_content != LONG
    assert "passage" not in found.metadata
    assert "probability" in found.metadata


def test_rerankers_score_of_one_document_is_that_of_rank(ranking):
    for score_type in (None, "raw"):
        ranker = RerankersRanker("default", 0, score_type=score_type)
        assert ranker.score(QUESTION, TEXTS[1]) == ranker.rank(QUESTION, TEXTS[1])[0].score
    sharing = RerankersRanker("default", 0, score_type="share")
    assert sharing.score(QUESTION, TEXTS[1]) == pytest.approx(ranking[0].raw_score, abs=0.05)


@pytest.mark.parametrize("kind", [LlamaIndexRerank, LangChainRerank, LangChainCrossEncoder, HaystackRanker])
@pytest.mark.parametrize("score_type", ["logit", 1, ""])
def test_what_names_no_score_is_refused_at_once(kind, score_type):
    with pytest.raises(ValueError, match="score_type"):
        kind(score_type=score_type)


def test_a_model_without_probabilities_gives_raw_scores_and_refuses_to_give_others(tmp_path):
    folder = save_model(tmp_path, "llama")
    reranker = BlockRankReranker.from_pretrained(folder, config=CONFIG)
    expected = {document.index: document.raw_score for document in reranker.rank(QUESTION, TEXTS)}
    found = BlockRankCrossEncoder(reranker).rank(QUESTION, TEXTS)
    assert {one["corpus_id"]: one["score"] for one in found} == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match='score_type="probability" needs a model that gives probabilities'):
        BlockRankCrossEncoder(reranker, score_type="probability").rank(QUESTION, TEXTS)
    metadata = (
        LlamaIndexRerank(model=folder, config=CONFIG)
        .postprocess_nodes([NodeWithScore(node=TextNode(text="a"))], query_str=QUESTION)[0]
        .node.metadata
    )
    assert "probability" not in metadata


def test_ties_keep_the_input_order_and_pruned_documents_stay_last():
    document = RankedDocument(0, 0.25, 1.0, "text", False, probability=0.5)
    ranking = [
        replace(document, index=3, score=0.5, probability=0.9),
        replace(document, index=2),
        replace(document, index=0),
        replace(document, index=1, score=0.0, raw_score=9.0, probability=None, pruned=True),
    ]
    for score_type in ("probability", "raw", "share"):
        found = scored(ranking, score_type)
        assert [one.ranked.index for one in found] == ([0, 2, 3, 1] if score_type == "raw" else [3, 0, 2, 1])
        assert found[-1].score <= found[-2].score
    assert scored([], "raw") == []
    assert resolve_score_type(None, False, "m") == "raw"


def test_pairs_one_at_a_time_in_batches_and_as_a_whole_agree():
    encoder = BlockRankCrossEncoder(dtype="float32")
    pairs = [(QUESTION, text) for text in TEXTS]
    whole = encoder.predict(pairs)
    assert np.allclose([encoder.predict(pair) for pair in pairs], whole, atol=1e-4)
    assert np.allclose([*encoder.predict(pairs[:4]), *encoder.predict(pairs[4:])], whole, atol=1e-4)
    mixed = [pair for text in TEXTS for pair in ((QUESTION, text), ("how is bread baked", text))]
    assert np.allclose(encoder.predict(mixed)[::2], whole, atol=1e-4)
