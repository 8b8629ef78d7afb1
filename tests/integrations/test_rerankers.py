from __future__ import annotations

import asyncio

import pytest

rerankers = pytest.importorskip("rerankers", reason="needs the rerankers extra")

import rerankers_blockrank  # noqa: F401
from rerankers.documents import Document

from tests.integrations.conftest import QUESTION, TEXTS


@pytest.fixture(scope="module")
def ranker():
    return rerankers.Reranker("default", model_type="BlockRankRanker", verbose=0, dtype="float32")


def test_importing_it_registers_it_and_documents_come_in_the_engines_order(ranker, ranking):
    found = ranker.rank(QUESTION, TEXTS, doc_ids=[f"d{n}" for n in range(len(TEXTS))])
    assert [result.doc_id for result in found] == [f"d{document.index}" for document in ranking]
    assert [result.rank for result in found] == list(range(1, len(TEXTS) + 1))
    assert found.top_k(1)[0].text == TEXTS[ranking[0].index]
    assert found.get_score_by_docid(f"d{ranking[0].index}") == found[0].score


def test_documents_and_metadata_come_back(ranker):
    found = ranker.rank(QUESTION, [Document(text, doc_id=n, metadata={"n": n}) for n, text in enumerate(TEXTS)])
    assert all(result.metadata["n"] == result.doc_id for result in found)


def test_one_text_an_empty_list_and_async_calls(ranker):
    assert ranker.rank(QUESTION, TEXTS[0]).results_count() == 1
    assert ranker.rank(QUESTION, []).results_count() == 0
    assert asyncio.run(ranker.rank_async(QUESTION, TEXTS)).results_count() == len(TEXTS)


def test_single_scores_agree_with_the_order(ranker, ranking):
    scores = [ranker.score(QUESTION, text) for text in TEXTS]
    assert sorted(range(len(TEXTS)), key=lambda n: -scores[n])[0] == ranking[0].index
