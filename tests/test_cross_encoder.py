from __future__ import annotations

import numpy as np
import pytest
import torch

from blockrank_rerank import BlockRankCrossEncoder, BlockRankReranker
from tests.tiny_models import CONFIG, save_model

QUERY = "what treats a heart attack"
DOCUMENTS = ["the liver stores sugar", "aspirin thins the blood", "a blocked artery"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("llama"), "llama")
    return BlockRankCrossEncoder(BlockRankReranker.from_pretrained(folder, config=CONFIG, dtype="float32"))


@pytest.fixture(scope="module")
def sharing(encoder):
    """The same one, whose scores are shares of a list."""
    return BlockRankCrossEncoder(encoder.reranker, score_type="share")


def test_rank_has_the_shape_of_sentence_transformers(sharing):
    ranking = sharing.reranker.rank(QUERY, DOCUMENTS)
    assert sharing.rank(QUERY, DOCUMENTS) == [{"corpus_id": d.index, "score": d.score} for d in ranking]
    assert sharing.rank(QUERY, DOCUMENTS, top_k=2, return_documents=True) == [
        {"corpus_id": d.index, "score": d.score, "text": d.text} for d in ranking[:2]
    ]


def test_rank_takes_the_tuning_arguments_of_sentence_transformers(encoder):
    options = {"batch_size": 32, "show_progress_bar": False, "num_workers": 0, "convert_to_tensor": False}
    assert encoder.rank(QUERY, DOCUMENTS, None, True, **options) == encoder.rank(
        QUERY, DOCUMENTS, return_documents=True
    )


def test_rank_of_no_documents_is_empty(encoder):
    assert encoder.rank(QUERY, []) == []


def test_predict_scores_the_pairs_of_one_query_as_one_list_in_their_order(sharing):
    scores = sharing.predict([(QUERY, text) for text in DOCUMENTS])
    expected = {d.index: d.score for d in sharing.reranker.rank(QUERY, DOCUMENTS)}
    assert isinstance(scores, np.ndarray)
    assert scores.dtype == np.float32
    assert scores.shape == (3,)
    assert scores.tolist() == pytest.approx([expected[number] for number in range(3)], abs=1e-6)


def test_predict_keeps_the_lists_of_different_queries_apart(sharing):
    pairs = [(QUERY, text) for text in DOCUMENTS] + [["liver", "sugar"], ["liver", "blood"]] + [(QUERY, "aspirin")]
    scores = sharing.predict(pairs)
    assert scores[:3].sum() == pytest.approx(1, abs=1e-5)
    assert scores[3:5].sum() == pytest.approx(1, abs=1e-5)
    assert scores[5] == pytest.approx(1)
    assert scores[:3].tolist() == pytest.approx(sharing.predict(pairs[:3]).tolist(), abs=1e-5)


def test_predict_of_nothing_is_an_empty_array(encoder):
    scores = encoder.predict([])
    assert scores.shape == (0,)
    assert scores.dtype == np.float32


def test_predict_takes_both_names_of_its_argument_and_any_iterable(encoder):
    pairs = [(QUERY, text) for text in DOCUMENTS]
    expected = encoder.predict(pairs)
    assert len(expected) == len(pairs)
    for given in ({"inputs": pairs}, {"sentences": pairs}, {"inputs": zip([QUERY] * 3, DOCUMENTS, strict=True)}):
        assert np.array_equal(encoder.predict(**given), expected)


def test_predict_returns_the_form_that_is_asked_for(encoder):
    pairs = [(QUERY, text) for text in DOCUMENTS]
    expected = encoder.predict(pairs)
    tensor = encoder.predict(pairs, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.tolist() == expected.tolist()
    assert encoder.predict([], convert_to_tensor=True).shape == (0,)
    tensors = encoder.predict(pairs, convert_to_numpy=False)
    assert [score.item() for score in tensors] == expected.tolist()
    assert all(isinstance(score, torch.Tensor) for score in tensors)


def test_an_activation_is_applied(encoder):
    pairs = [(QUERY, text) for text in DOCUMENTS]
    expected = torch.sigmoid(encoder.predict(pairs, convert_to_tensor=True))
    torch.testing.assert_close(
        encoder.predict(pairs, activation_fn=torch.nn.Sigmoid(), convert_to_tensor=True), expected
    )
    ranking = encoder.rank(QUERY, DOCUMENTS, activation_fn=torch.nn.Sigmoid())
    assert {found["corpus_id"]: found["score"] for found in ranking} == pytest.approx(
        dict(enumerate(expected.tolist()))
    )


def test_an_activation_sees_the_whole_list_and_decides_the_order(encoder):
    worst = encoder.rank(QUERY, DOCUMENTS)[-1]["corpus_id"]
    assert encoder.rank(QUERY, DOCUMENTS, top_k=1, activation_fn=torch.neg)[0]["corpus_id"] == worst
    softmax = torch.nn.Softmax(-1)
    assert (
        encoder.rank(QUERY, DOCUMENTS, 1, activation_fn=softmax)
        == encoder.rank(QUERY, DOCUMENTS, activation_fn=softmax)[:1]
    )
    scores = encoder.predict([(QUERY, text) for text in DOCUMENTS], activation_fn=torch.nn.Linear(3, 3))
    assert scores.dtype == np.float32


def test_misspelt_arguments_and_prompts_are_refused(sharing):
    with pytest.raises(TypeError, match="argument 'topk' is not supported"):
        sharing.rank(QUERY, DOCUMENTS, topk=1)
    with pytest.raises(TypeError, match="argument 'prompt' is not supported"):
        sharing.predict([(QUERY, "a")], prompt="query: ")
    with pytest.raises(TypeError, match="argument 'device' is not supported"):
        sharing.predict([(QUERY, "a")], device="cuda")
    with pytest.raises(TypeError, match="two names of one argument"):
        sharing.predict([(QUERY, "a")], sentences=[(QUERY, "a")])
    assert sharing.predict([(QUERY, "a")], prompt=None, device=None).tolist() == [1.0]


def test_pairs_that_all_stand_alone_bring_a_warning(sharing):
    with pytest.warns(UserWarning, match="every list has one document"):
        sharing.predict([("liver", "sugar"), ("artery", "blood")])


def test_a_query_that_comes_back_brings_a_warning(sharing):
    pairs = [("liver", "sugar"), ("liver", "blood"), ("artery", "blood"), ("liver", "aspirin")]
    with pytest.warns(UserWarning, match="a query comes back after another one's pairs"):
        sharing.predict(pairs)


def test_a_model_may_be_named(encoder, tmp_path):
    folder = save_model(tmp_path, "llama")
    CONFIG.save(folder)
    assert BlockRankCrossEncoder(None).reranker.model == "default"
    assert len(BlockRankCrossEncoder(folder).rank(QUERY, DOCUMENTS)) == 3
    assert len(BlockRankCrossEncoder(str(folder)).rank(QUERY, DOCUMENTS)) == 3
    with pytest.raises(TypeError, match="reranker must be a BlockRankReranker or a model's name, got int"):
        BlockRankCrossEncoder(3)


def test_predict_takes_the_tuning_arguments_of_sentence_transformers(encoder):
    pairs = [(QUERY, text) for text in DOCUMENTS]
    assert np.array_equal(encoder.predict(pairs, batch_size=8, convert_to_numpy=True), encoder.predict(pairs))


@pytest.mark.parametrize(
    "sentences",
    ["text", (QUERY,), (QUERY, "a", "b"), [(QUERY,)], [(QUERY, "a", "b")], [None], [7]],
    ids=str,
)
def test_anything_but_pairs_is_refused(encoder, sentences):
    with pytest.raises(ValueError, match=r"inputs must be a list of \(query, document\) pairs"):
        encoder.predict(sentences)


def test_bad_documents_and_queries_are_refused_as_by_the_reranker(encoder):
    with pytest.raises(TypeError, match=r"documents\[1\]"):
        encoder.predict([(QUERY, "a"), (QUERY, None)])
    with pytest.raises(ValueError, match="query must not be empty"):
        encoder.predict([("", "a")])


def test_the_default_model_is_used_where_none_is_given():
    ranking = BlockRankCrossEncoder().rank("why is the sky blue", ["bread and butter", "the blue colour of the sky"])
    assert ranking[0]["corpus_id"] == 1


def test_cut_documents_say_so(tmp_path):
    cutting = BlockRankReranker.from_pretrained(max_document_tokens=20, long_documents="truncate")
    found = BlockRankCrossEncoder(cutting).rank("what treats it", ["aspirin " * 30, "bread"])
    assert {one["corpus_id"]: one.get("truncated") for one in found} == {0: True, 1: None}


# As sentence-transformers has it


def test_one_pair_gives_one_score(encoder):
    (expected,) = encoder.predict([(QUERY, DOCUMENTS[0])])
    for pair in ((QUERY, DOCUMENTS[0]), [QUERY, DOCUMENTS[0]], np.array([QUERY, DOCUMENTS[0]])):
        assert isinstance(encoder.predict(pair), np.float32)
        assert encoder.predict(pair) == expected
        assert encoder.predict(pair, convert_to_tensor=True).shape == ()
        assert encoder.predict(pair, convert_to_numpy=False).item() == expected


@pytest.mark.parametrize("dtype", [object, str])
def test_arrays_of_pairs_are_lists_of_pairs(encoder, dtype):
    pairs = [(QUERY, text) for text in DOCUMENTS]
    assert np.array_equal(encoder.predict(np.array(pairs, dtype)), encoder.predict(pairs))
    assert np.array_equal(encoder.predict([np.array(pair, dtype) for pair in pairs]), encoder.predict(pairs))
    assert encoder.predict(np.empty((0, 2), dtype)).shape == (0,)
    with pytest.raises(ValueError, match=r"inputs must be a list of \(query, document\) pairs"):
        encoder.predict(np.array([[QUERY, "a", "b"]], dtype))


def test_a_column_of_pairs_is_a_list_of_pairs_and_a_table_is_none(encoder):
    pandas = pytest.importorskip("pandas")
    pairs = [(QUERY, text) for text in DOCUMENTS]
    assert np.array_equal(encoder.predict(pandas.Series(pairs)), encoder.predict(pairs))
    with pytest.raises(ValueError, match="got DataFrame"):
        encoder.predict(pandas.DataFrame(pairs))


@pytest.mark.parametrize(
    ("inputs", "single"),
    [
        (("q", "d"), True),
        (["q", "d"], True),
        (np.array(["q", "d"]), True),
        ([("q", "d")], False),
        (np.array([["q", "d"]]), False),
        ([], False),
        (np.array([]), False),
        (zip("q", "d", strict=True), False),
    ],
)
def test_singular_inputs_are_known(encoder, inputs, single):
    assert encoder.is_singular_input(inputs) is single


def test_an_activation_has_two_names_and_a_default(encoder):
    pairs = [(QUERY, text) for text in DOCUMENTS]
    expected = torch.sigmoid(encoder.predict(pairs, convert_to_tensor=True)).numpy()
    always = BlockRankCrossEncoder(encoder.reranker, activation_fn=torch.nn.Sigmoid())
    assert isinstance(encoder.activation_fn, torch.nn.Identity)
    assert np.allclose(encoder.predict(pairs, activation_fct=torch.sigmoid), expected)
    assert np.allclose(always.predict(pairs), expected)
    assert np.allclose(always.predict(pairs, activation_fn=torch.nn.Identity()), encoder.predict(pairs))
    assert always.rank(QUERY, DOCUMENTS)[0]["score"] == pytest.approx(expected.max())
    with pytest.raises(TypeError, match="activation_fn and activation_fct are two names of one argument"):
        encoder.predict(pairs, activation_fn=torch.neg, activation_fct=torch.neg)


def test_the_models_device_and_processing_arguments_are_taken(encoder):
    pairs = [(QUERY, text) for text in DOCUMENTS]
    assert encoder.device == encoder.reranker.device
    for device in (encoder.device, str(encoder.device), [str(encoder.device)]):
        assert np.array_equal(encoder.predict(pairs, device=device), encoder.predict(pairs))
    processing = {"text": {"max_length": 256, "truncation": True}}
    assert np.array_equal(encoder.predict(pairs, processing_kwargs=processing), encoder.predict(pairs))
    assert encoder.rank(QUERY, DOCUMENTS, processing_kwargs=processing) == encoder.rank(QUERY, DOCUMENTS)


def test_the_longest_document_is_known_and_can_be_set(encoder):
    own = BlockRankCrossEncoder(encoder.reranker)
    assert own.max_length == encoder.reranker.config.max_document_tokens
    own.max_length = 5
    assert own.max_length == own.reranker.config.max_document_tokens == 5
    assert len(own.rank(QUERY, DOCUMENTS)) == 3


def test_the_longest_document_is_not_set_where_a_cache_would_be_left_behind():
    own = BlockRankCrossEncoder(cache="1MB")
    with pytest.raises(ValueError, match=r"max_length cannot be set to 5 beside cache, .* give max_document_tokens=5"):
        own.max_length = 5
    assert own.reranker.lookup is not None


def test_lone_pairs_bring_no_warning_where_scores_do_not_depend_on_the_list(encoder, recwarn):
    encoder.predict([("liver", "sugar"), ("artery", "blood"), ("liver", "aspirin")])
    assert not [warning for warning in recwarn if "list" in str(warning.message)]
