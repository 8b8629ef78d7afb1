from __future__ import annotations

import asyncio
import copy
import pickle

import pytest

pd = pytest.importorskip("pandas")
rerankers = pytest.importorskip("rerankers", reason="needs the rerankers extra")

import rerankers_blockrank  # noqa: F401
from rerankers.documents import Document

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.errors import install_line
from tests.integrations.conftest import CUT, QUESTION, TEXTS


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


def test_scores_are_python_floats(ranker):
    assert all(type(result.score) is float for result in ranker.rank(QUESTION, TEXTS))
    assert type(ranker.score(QUESTION, TEXTS[0])) is float


def test_ids_and_metadata_of_the_call_come_first_and_are_not_written_to_the_callers_documents(ranker):
    given = [Document(text, doc_id=n) for n, text in enumerate(TEXTS)]
    names = [f"d{n}" for n in range(len(TEXTS))]
    found = ranker.rank(QUESTION, given, doc_ids=names, metadata=[{"name": name} for name in names])
    assert sorted(result.doc_id for result in found) == names
    assert all(result.metadata.pop("probability") == result.score for result in found)
    assert len({result.metadata.pop("answerable") for result in found}) == 1
    assert all(result.metadata == {"name": result.doc_id} for result in found)
    assert [document.doc_id for document in given] == list(range(len(TEXTS)))
    assert all(document.metadata == {} for document in given)


@pytest.mark.parametrize("name", ["doc_ids", "metadata"])
def test_too_few_or_too_many_ids_and_metadata_are_refused(ranker, name):
    for values in ([{}], [{}] * (len(TEXTS) + 1)):
        with pytest.raises(ValueError, match=f"{name} must have one entry for each of {len(TEXTS)} documents"):
            ranker.rank(QUESTION, TEXTS, **{name: values})


def test_documents_without_ids_and_in_tuples_are_numbered(ranker):
    found = ranker.rank(QUESTION, tuple(Document(text) for text in TEXTS))
    assert sorted(result.doc_id for result in found) == list(range(len(TEXTS)))


def test_images_and_duplicates_stay(ranker):
    image = Document(document_type="image", image_path="scan.png", doc_id="image")
    found = ranker.rank(QUESTION, [image, *(Document(TEXTS[1], doc_id="same") for _ in range(2))])
    assert sorted(result.doc_id for result in found) == ["image", "same", "same"]


def test_copies_pickles_and_rerankers_with_equal_settings_share_the_model(ranker):
    expected = ranker.rank(QUESTION, TEXTS).results
    others = copy.deepcopy(ranker), pickle.loads(pickle.dumps(ranker))
    for other in others:
        assert [result.score for result in other.rank(QUESTION, TEXTS)] == [result.score for result in expected]
        assert other._reranker.engine is ranker._reranker.engine
    assert BlockRankReranker.from_pretrained(dtype="float32").engine is ranker._reranker.engine


def test_without_the_framework_the_import_says_what_to_install(without_frameworks):
    assert install_line("rerankers") in without_frameworks["rerankers_blockrank"]


@pytest.mark.parametrize("documents", [{"text": "x"}, {"a", "b"}, pd.DataFrame({"text": TEXTS})])
def test_what_is_no_list_of_documents_is_not_ranked(ranker, documents):
    with pytest.raises(TypeError, match="documents must be a list of documents, got"):
        ranker.rank(QUESTION, documents)


def test_what_is_no_document_is_named_by_its_place(ranker):
    with pytest.raises(TypeError, match=r"docs\[1\] must be a str or a Document of rerankers, got dict"):
        ranker.rank(QUESTION, [TEXTS[0], {"text": "x"}])


def test_made_up_ids_are_not_those_that_were_given(ranker):
    found = ranker.rank(QUESTION, [Document(TEXTS[0], doc_id=0), Document(TEXTS[1]), Document(TEXTS[2], doc_id=2)])
    assert {result.text: result.doc_id for result in found} == {TEXTS[0]: 0, TEXTS[1]: 1, TEXTS[2]: 2}
    found = ranker.rank(QUESTION, [Document(TEXTS[0], doc_id=1), Document(TEXTS[1])])
    assert {result.text: result.doc_id for result in found} == {TEXTS[0]: 1, TEXTS[1]: 0}


def test_a_cut_document_says_so_and_the_callers_does_not():
    cutting = rerankers.Reranker(
        "default", model_type="BlockRankRanker", verbose=0, max_document_tokens=20, long_documents="truncate"
    )
    given = [Document(CUT, doc_id=0, metadata={"n": 0}), Document(TEXTS[0], doc_id=1)]
    found = cutting.rank(QUESTION, given)
    assert all(result.metadata.pop("probability") == result.score for result in found)
    assert len({result.metadata.pop("answerable") for result in found}) == 1
    assert {result.doc_id: result.metadata for result in found} == {0: {"n": 0, "truncated": True}, 1: {}}
    assert given[0].metadata == {"n": 0}
