"""Documents in mappings of lists, as `datasets` keeps them, and MS MARCO's passages."""

import pytest

from blockrank_rerank.finetune.data import read_examples
from tests.finetune.data_files import refusal, texts

MARCO = {
    "answers": ["Yes."],
    "passages": {
        "is_selected": [0, 1, 0],
        "passage_text": ["concrete is cheap", "fleas live for weeks", "iron is a metal"],
        "url": ["a", "b", "c"],
    },
    "query": "how long do fleas live",
    "query_id": 19699,
    "query_type": "NUMERIC",
    "wellFormedAnswers": [],
}
EXPECTED = (["fleas live for weeks"], ["concrete is cheap", "iron is a metal"])


def both(example):
    return texts(example, True), texts(example, False)


def folded(row):
    """The same row with a list of passages, as the first release of MS MARCO had it."""
    keys, lists = row["passages"].keys(), row["passages"].values()
    return row | {"passages": [dict(zip(keys, values, strict=True)) for values in zip(*lists, strict=True)]}


@pytest.mark.filterwarnings("ignore:.*is not read")
@pytest.mark.parametrize("row", [MARCO, folded(MARCO)], ids=["v2.1", "v1.1"])
def test_passages_of_ms_marco_are_read_with_their_labels(put, row):
    [example] = read_examples(put(row))
    assert both(example) == EXPECTED
    assert example.query_id == "19699"


@pytest.mark.filterwarnings("ignore")
def test_a_query_without_a_selected_passage_is_left_out(put):
    none = MARCO | {"query": "another", "passages": MARCO["passages"] | {"is_selected": [0, 0, 0]}}
    assert len(read_examples(put(MARCO, none))) == 1


@pytest.mark.parametrize("key", ["text", "passage_text", "content"])
def test_positives_and_negatives_in_mappings_of_lists(put, key):
    row = {"query": "q", "pos": {key: ["a"]}, "neg": {"title": ["T", None], key: ["b", "c"], "docid": ["1", "2"]}}
    assert both(read_examples(put(row))[0]) == (["a"], ["T b", "c"])


def test_documents_of_blockrank_in_a_mapping_of_lists(put):
    row = {"query": "q", "documents": {"doc_id": ["x", "y"], "text": ["a", "b"]}, "answer_ids": ["y"]}
    assert both(read_examples(put(row))[0]) == (["b"], ["a"])


def test_lists_of_different_lengths_are_refused(put):
    row = MARCO | {"passages": MARCO["passages"] | {"is_selected": [0, 1]}}
    assert 'expected the lists of "passages" to have one length, got "is_selected" 2, "passage_text" 3' in refusal(
        put(row)
    )
    row = {"query": "q", "pos": {"text": ["a", "b"], "title": ["t"]}}
    assert 'expected "pos" to be a list, got dict' in refusal(put(row))


def test_a_text_under_two_names_is_refused(put):
    found = refusal(put({"query": "q", "pos": [{"passage_text": "a", "content": "b"}]}))
    assert 'pos[0] needs "text" as a str' in found
