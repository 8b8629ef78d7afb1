from __future__ import annotations

import numpy as np
import pytest

from blockrank_rerank import BlockRankCrossEncoder, BlockRankReranker
from tests.core.tiny_models import CONFIG, save_model

QUERY = "what treats a heart attack"
DOCUMENTS = ["the liver stores sugar", "aspirin thins the blood", "a blocked artery"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("llama"), "llama")
    return BlockRankCrossEncoder(BlockRankReranker.from_pretrained(folder, config=CONFIG, dtype="float32"))


def test_rank_has_the_shape_of_sentence_transformers(encoder):
    ranking = encoder.reranker.rank(QUERY, DOCUMENTS)
    assert encoder.rank(QUERY, DOCUMENTS) == [{"corpus_id": d.index, "score": d.score} for d in ranking]
    assert encoder.rank(QUERY, DOCUMENTS, top_k=2, return_documents=True) == [
        {"corpus_id": d.index, "score": d.score, "text": d.text} for d in ranking[:2]
    ]


def test_rank_takes_the_tuning_arguments_of_sentence_transformers(encoder):
    options = {"batch_size": 32, "show_progress_bar": False, "num_workers": 0, "convert_to_tensor": False}
    assert encoder.rank(QUERY, DOCUMENTS, None, True, **options) == encoder.rank(
        QUERY, DOCUMENTS, return_documents=True
    )


def test_rank_of_no_documents_is_empty(encoder):
    assert encoder.rank(QUERY, []) == []


def test_predict_scores_the_pairs_of_one_query_as_one_list_in_their_order(encoder):
    scores = encoder.predict([(QUERY, text) for text in DOCUMENTS])
    expected = {d.index: d.score for d in encoder.reranker.rank(QUERY, DOCUMENTS)}
    assert isinstance(scores, np.ndarray)
    assert scores.dtype == np.float32
    assert scores.shape == (3,)
    assert scores.tolist() == pytest.approx([expected[number] for number in range(3)], abs=1e-6)


def test_predict_keeps_the_lists_of_different_queries_apart(encoder):
    pairs = [(QUERY, text) for text in DOCUMENTS] + [["liver", "sugar"], ["liver", "blood"]] + [(QUERY, "aspirin")]
    scores = encoder.predict(pairs)
    assert scores[:3].sum() == pytest.approx(1, abs=1e-5)
    assert scores[3:5].sum() == pytest.approx(1, abs=1e-5)
    assert scores[5] == pytest.approx(1)
    assert scores[:3].tolist() == pytest.approx(encoder.predict(pairs[:3]).tolist(), abs=1e-5)


def test_predict_of_nothing_is_an_empty_array(encoder):
    scores = encoder.predict([])
    assert scores.shape == (0,)
    assert scores.dtype == np.float32


def test_predict_takes_the_tuning_arguments_of_sentence_transformers(encoder):
    pairs = [(QUERY, text) for text in DOCUMENTS]
    assert np.array_equal(encoder.predict(pairs, batch_size=8, convert_to_numpy=True), encoder.predict(pairs))


@pytest.mark.parametrize(
    "sentences",
    ["text", (QUERY, "one document"), [QUERY, "text"], [(QUERY,)], [(QUERY, "a", "b")], [None], [7]],
    ids=str,
)
def test_anything_but_pairs_is_refused(encoder, sentences):
    with pytest.raises(ValueError, match=r"sentences must be a list of \(query, document\) pairs"):
        encoder.predict(sentences)


def test_bad_documents_and_queries_are_refused_as_by_the_reranker(encoder):
    with pytest.raises(TypeError, match=r"documents\[1\]"):
        encoder.predict([(QUERY, "a"), (QUERY, None)])
    with pytest.raises(ValueError, match="query must not be empty"):
        encoder.predict([("", "a")])


def test_the_default_model_is_used_where_none_is_given():
    ranking = BlockRankCrossEncoder().rank("why is the sky blue", ["bread and butter", "the blue colour of the sky"])
    assert ranking[0]["corpus_id"] == 1
