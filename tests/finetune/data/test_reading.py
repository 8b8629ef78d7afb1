"""Rows, their formats and their faults."""

from importlib.util import find_spec

import pytest

from blockrank_rerank.finetune.data import Candidate, TrainingExample, read_examples
from blockrank_rerank.formats import DataError
from blockrank_rerank.text.document import document_text
from tests.finetune.data_files import refusal, texts

needs_datasets = pytest.mark.skipif(find_spec("datasets") is None, reason="datasets is not installed")

GOOD = {"query": "q", "pos": ["p"], "neg": ["n"]}
RELEASED = {"query": "q", "documents": [{"doc_id": "a", "title": "A", "text": "x"}, "y"], "answer_ids": ["a"]}


# Rows of queries, positives, negatives


def test_positives_and_negatives_become_candidates_with_grades(put):
    path = put({"query": "q", "query_id": 7, "pos": ["p", {"title": "T", "text": "t"}], "neg": ["n"]})
    assert read_examples(path) == [
        TrainingExample("q", (Candidate("p", 1.0), Candidate("T t", 1.0), Candidate("n", 0.0)), f"{path}:1", "7")
    ]


def test_a_title_is_joined_as_the_ranker_joins_it(put):
    document = {"title": "Fleas", "text": "live long"}
    [example] = read_examples(put({"query": "q", "pos": [document]}))
    assert texts(example, True) == [document_text(document, 0)]


def test_teacher_scores_and_grades_go_to_their_documents(put):
    row = {
        "query": "q",
        "pos": ["p", "r"],
        "neg": ["n"],
        "pos_scores": [0.9, 1],
        "neg_scores": [-2],
        "pos_grades": [1, 3],
    }
    [example] = read_examples(put(row))
    assert example.candidates == (Candidate("p", 1.0, 0.9), Candidate("r", 3.0, 1.0), Candidate("n", 0.0, -2.0))


def test_negatives_may_be_missing(put):
    assert [len(example.negatives) for example in read_examples(put({"query": "q", "pos": ["p"]}))] == [0]


def test_lone_strings_stand_for_lists_of_one(put):
    [example] = read_examples(put({"query": "q", "pos": "p", "neg": "n"}))
    assert (texts(example, True), texts(example, False)) == (["p"], ["n"])


def test_columns_that_flagembedding_writes_are_no_fault(put):
    row = GOOD | {"prompt": "Represent this", "type": "normal", "pos_id": ["1"], "neg_id": ["2"]}
    assert len(read_examples(put(row))) == 1


def test_columns_can_be_mapped_and_others_are_then_ignored_with_one_warning(put):
    row = {"question": "q", "answer": "p", "neg": ["n"], "year": 1}
    path = put(row, row)
    with pytest.warns(UserWarning, match=r':1: column "year" is not read; known: "query", ') as warned:
        example, _ = read_examples(path, columns={"query": "question", "pos": "answer"})
    assert len(warned) == 1
    assert (example.query, texts(example, True), texts(example, False)) == ("q", ["p"], ["n"])


def test_documents_that_examples_share_are_kept_in_memory_once(put):
    first, second = read_examples(put(GOOD, GOOD))
    assert first.candidates[0].text is second.candidates[0].text


def test_unusual_text_is_read_unchanged(put):
    strange = "nul \x00, </s> [SEP], \u2028, 👩‍👩‍👧"
    [example] = read_examples(put({"query": strange, "pos": [strange]}))
    assert (example.query, texts(example, True)) == (strange, [strange])


# The released form


def test_answers_name_documents_by_id(put):
    [example] = read_examples(put(RELEASED))
    assert example.candidates == (Candidate("A x", 1.0), Candidate("y", 0.0))


def test_answers_name_plain_documents_by_their_place(put):
    [example] = read_examples(put({"query": "q", "documents": ["x", "y", "z"], "answer_ids": [2, "0"]}))
    assert [candidate.relevant for candidate in example.candidates] == [True, False, True]


def test_integer_and_string_ids_are_the_same(put):
    documents = [{"doc_id": 17, "text": "x"}, {"doc_id": "18", "text": "y"}]
    [example] = read_examples(put({"query": "q", "documents": documents, "answer_ids": ["17", 18]}))
    assert all(candidate.relevant for candidate in example.candidates)


# Faults

FAULTS = {
    b"": ("", "the file is empty"),
    b"\n \n": ("", "the file is empty"),
    b"{\n": ("1", "not valid JSON"),
    b"[1]\n": ("1", 'expected a JSON object with "query", "pos", got list'),
    b"\xff\n": ("1", "expected UTF-8"),
    b"\x1f\x8b\x08\x00": ("", "this is a gzip file; decompress it first"),
    b'{"positive": "p", "question": "q"}': ("1", "columns={'query': 'question', 'pos': 'positive'}"),
    b'\n\n{"query": NaN, "pos": ["p"]}\n': ("3", "NaN is not JSON"),
    b'{"query": "q", "pos": ["p"], "query": "r"}\n': ("1", "not usable JSON: 'query' comes twice"),
}


@pytest.mark.parametrize(("content", "expected"), FAULTS.items(), ids=[str(content) for content in FAULTS])
def test_files_that_hold_no_rows_are_refused_with_their_line(put, content, expected):
    line, message = expected
    found = refusal(put(content))
    assert found.startswith(f"{line}: " if line else " ")
    assert message in found


BAD_ROWS = [
    ({"query": " ", "pos": ["p"]}, 'expected "query" to hold text'),
    ({"query": 1, "pos": ["p"]}, 'expected "query" to be a string, got int'),
    ({"query": None, "pos": ["p"]}, 'no column "query"'),
    ({"query": "q"}, 'no column "pos"'),
    ({"query": "q", "pos": []}, 'expected "pos" to hold at least one relevant document'),
    ({"query": "q", "pos": [], "neg": ["n"]}, 'expected "pos" to hold at least one relevant document'),
    ({"query": "q", "pos": {}}, 'expected "pos" to be a list, got dict'),
    ({"query": "q", "pos": [None]}, "pos[0] must be a str or a mapping"),
    ({"query": "q", "pos": ["p"], "neg": ["n", {"title": "t"}]}, 'neg[1] needs "text" as a str'),
    ({"query": "q", "pos": ["p"], "query_id": ""}, 'expected "query_id" to be a non-empty string'),
    (GOOD | {"negs": []}, 'unknown column "negs"'),
    (GOOD | {"pos_scores": [1, 2], "neg_scores": [1]}, 'expected "pos_scores" to hold one number for each of the 1'),
    (GOOD | {"pos_scores": [1e39], "neg_scores": [1]}, "expected pos_scores[0] to be finite in 32 bits, got 1e+39"),
    (GOOD | {"pos_scores": [1], "neg_scores": []}, 'expected "neg_scores" to hold one number for each of the 1'),
    (GOOD | {"pos_scores": 1, "neg_scores": [1]}, 'expected "pos_scores" to be a list, got int'),
    (GOOD | {"pos_scores": ["1"], "neg_scores": [1]}, "expected pos_scores[0] to be a number, got str"),
    (GOOD | {"pos_scores": [True], "neg_scores": [1]}, "expected pos_scores[0] to be a number, got bool"),
    (GOOD | {"pos_scores": [1]}, 'expected "neg_scores" beside "pos_scores"'),
    (GOOD | {"neg_scores": [1]}, 'expected "pos_scores" beside "neg_scores"'),
    (GOOD | {"pos_grades": [0]}, 'expected "pos_grades" above 0, got 0'),
    (GOOD | {"pos_grades": [1e9]}, 'expected "pos_grades" of at most 1,000,000, got 1e+09'),
    (GOOD | {"pos_grades": [1, 2]}, 'expected "pos_grades" to hold one number'),
    (RELEASED | {"answer_ids": []}, 'expected "answer_ids" to hold at least one relevant'),
    (RELEASED | {"answer_ids": ["b"]}, "\"answer_ids\" names 'b', which is not in \"documents\": 'a', '1'"),
    (RELEASED | {"answer_ids": [0]}, "\"answer_ids\" names '0'"),
    (RELEASED | {"answer_ids": [1.5]}, 'expected "answer_ids" to hold strings or integers, got float'),
    (
        RELEASED | {"documents": [{"doc_id": "a", "text": "x"}, "y", {"doc_id": "a", "text": "z"}]},
        "expected every \"doc_id\" once, got 'a' for documents[0] and documents[2]",
    ),
    (
        RELEASED | {"documents": [{"doc_id": 1, "text": "x"}, "y"], "answer_ids": ["1"]},
        "got '1' for documents[0] and documents[1]; a document without one is named by its 0-based place",
    ),
    (RELEASED | {"documents": []}, 'expected "documents" to hold at least one document'),
    (RELEASED | {"documents": [{"doc_id": "a"}]}, 'documents[0] needs "text" as a str'),
    (RELEASED | {"documents": [{"doc_id": [], "text": "x"}]}, 'expected documents[0]["doc_id"] to be a string'),
    ({"query": "q", "documents": ["x"]}, 'no column "answer_ids"'),
    ({"query": "q", "answer_ids": ["x"]}, 'no column "documents"'),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS, ids=[message for _, message in BAD_ROWS])
def test_bad_rows_are_refused_with_their_line(put, row, message):
    good = RELEASED if "documents" in row or "answer_ids" in row else GOOD
    found = refusal(put(good, row))
    assert found.startswith("2: ")
    assert message in found


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
def test_scores_that_are_not_finite_are_refused(put, number):
    row = f'{{"query": "q", "pos": ["p"], "neg": [], "pos_scores": [{number}], "neg_scores": []}}'
    found = refusal(put(row.encode()))
    assert "finite" in found or "is not JSON" in found


def test_unknown_columns_are_named_with_the_mapping_that_helps(put):
    found = refusal(put({"question": "q", "positive": ["p"]}))
    assert 'found: "question", "positive"' in found
    assert "columns={'query': 'question', 'pos': 'positive'} in Python or a training collection's settings" in found
    assert "--column query=question --column pos=positive for the other commands" in found
    assert "--column neg=negs" in refusal(put({"query": "q", "pos": ["p"], "negs": ["n"]}))
    assert "to ignore it" in refusal(put(GOOD | {"year": 1}))


def test_a_mapping_that_names_no_column_is_refused(put):
    assert 'no column "answers", which the column mapping names' in refusal(put(GOOD), columns={"pos": "answers"})


def test_arguments_that_make_no_sense_are_refused(put, folder, tmp_path):
    for options, message in (
        ({"format": "csv"}, "format must be one of"),
        ({"columns": {"positives": "pos"}}, "columns may map query, query_id, pos"),
        ({"negatives": "hard"}, "negatives must be bm25, random or none, got 'hard'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_examples(put(GOOD), **options)
    with pytest.raises(ValueError, match="columns can only be mapped in rows"):
        read_examples(folder, columns={"query": "q"})
    with pytest.raises(DataError, match="expected a file for format 'blockrank'"):
        read_examples(folder, format="blockrank")
    with pytest.raises(DataError, match="expected a folder for format 'beir'"):
        read_examples(put(GOOD), format="beir")


@pytest.mark.parametrize("name", ["no.jsonl", "data/no", "/no/folder", "./no", "no"])
def test_a_missing_path_is_not_looked_up_on_the_hub(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_examples(name)


@needs_datasets
@pytest.mark.parametrize("failure", [ConnectionError, FileNotFoundError])
def test_what_may_be_a_misspelt_path_is_called_one_when_the_hub_has_no_such_dataset(tmp_path, monkeypatch, failure):
    import datasets

    def load(name, *_, **__):
        raise failure(f"Couldn't reach\n'{name}' on the Hub")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load)
    expected = (
        "^no such file or folder: dta/medquad; it was therefore asked for on the Hub: Couldn't reach 'dta/medquad'"
    )
    with pytest.raises(FileNotFoundError, match=expected):
        read_examples("dta/medquad")
    (tmp_path / "dta" / "medquad").mkdir(parents=True)
    with pytest.raises(failure, match=r"^Couldn't reach"):
        read_examples("dta/medquad", format="hub")
