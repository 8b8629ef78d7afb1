"""Labelled pairs and lists, read as what they mean; rows of one query, joined."""

import json
import random
import re

import pytest

from blockrank_rerank.finetune import FinetuneSettings
from blockrank_rerank.finetune.batches import TrainingLists
from blockrank_rerank.finetune.data import ListSampler, read_examples
from blockrank_rerank.finetune.data.example import Candidate, TrainingExample
from blockrank_rerank.finetune.data.joined_rows import joined
from blockrank_rerank.finetune.data.judged_corpus import JudgedCorpus
from blockrank_rerank.finetune.validation import validate
from tests.finetune.data_files import refusal, texts

GRADES = {"hold the button": 2.0, "unplug it": 1.0, "the flower show opens": 0.0}


def grades(example):
    return {candidate.text: candidate.grade for candidate in example.candidates}


def pairs(query="query", document="passage", label="label", values=(2, 1, 0)):
    return [{query: "reset", document: text, label: value} for text, value in zip(GRADES, values, strict=True)]


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"query": "question", "document": "text", "label": "relevance"},
        {"query": "anchor", "document": "document", "label": "score"},
        {"query": "sentence1", "document": "sentence2", "label": "Label"},
        {"values": ("2", "1.0", "0")},
        {"values": (2.0, True, False)},
        {"values": (2, 1, -1)},
    ],
    ids=str,
)
def test_pairs_with_a_label_become_one_example_for_each_query(put, names):
    [example] = read_examples(put(*pairs(**names)))
    assert grades(example) == GRADES
    assert example.source.endswith(":1")


@pytest.mark.parametrize(("documents", "labels"), [("docs", "labels"), ("passages", "scores"), ("documents", "grades")])
def test_lists_of_documents_have_a_list_of_labels(put, documents, labels):
    [example] = read_examples(put({"query": "reset", documents: [*GRADES], labels: [*GRADES.values()]}))
    assert grades(example) == GRADES


def test_labels_may_stand_in_the_documents_themselves(put):
    documents = [{"text": text, "label": grade} for text, grade in GRADES.items()]
    assert grades(read_examples(put({"query": "reset", "documents": documents}))[0]) == GRADES


def test_titles_are_read_and_ids_are_no_fault(put):
    row = {"query": "reset", "qid": "q7", "title": "Router", "text": "hold", "pid": "9", "label": 1}
    [example] = read_examples(put(row))
    assert (texts(example, relevant=True), example.query_id) == (["Router hold"], "q7")


def test_numbers_from_0_to_1_are_relevant_from_a_half_on_and_a_teachers_scores(put):
    with pytest.warns(UserWarning, match=r"from 0\.5 on a document counts as relevant"):
        [example] = read_examples(put({"query": "q", "docs": ["a", "b", "c"], "scores": [0.9, 0.5, 0.2]}))
    assert grades(example) == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert [candidate.teacher_score for candidate in example.candidates] == [0.9, 0.5, 0.2]


def test_a_score_beside_a_label_is_a_teachers(put):
    rows = [{"query": "q", "text": "a", "label": 1, "score": -0.3}, {"query": "q", "text": "b", "label": 0, "score": 7}]
    [example] = read_examples(put(*rows))
    assert example.candidates == (Candidate("a", 1.0, -0.3), Candidate("b", 0.0, 7.0))


def test_queries_without_a_relevant_document_are_left_out_and_counted(put):
    rows = [*pairs(), {"query": "other", "passage": "x", "label": 0}]
    with pytest.warns(UserWarning, match="1 of 2 queries have no document labelled as relevant"):
        assert len(read_examples(put(*rows))) == 1
    assert "no query has a document labelled as relevant" in refusal(put(rows[-1]))


def test_queries_without_a_relevant_document_are_judged_too(put):
    rows = [*pairs(), {"query": "other", "passage": "x", "label": 0}]
    *_, last = read_examples(put(*rows), judged=True)
    assert grades(last) == {"x": 0.0}
    [example] = read_examples(put({"query": "q", "pos": [], "neg": ["n"]}), judged=True)
    assert grades(example) == {"n": 0.0}
    [example] = read_examples(put({"query": "q", "documents": ["n"], "answer_ids": []}), judged=True)
    assert grades(example) == {"n": 0.0}
    _, example = read_examples(put(b"query,pos,neg\nq,p,n\nr,,n\n", name="a.csv"), judged=True)
    assert grades(example) == {"n": 0.0}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "q", "pos": [], "neg": []}, 'expected "pos" to hold at least one relevant document'),
        ({"query": "q", "neg": ["n"]}, 'no column "pos"'),
        ({"query": "q", "documents": ["n"]}, 'no column "answer_ids"'),
    ],
    ids=["nothing", "no positives", "no labels"],
)
def test_judgements_that_say_nothing_are_refused(put, row, message):
    assert message in refusal(put(row), judged=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "q", "docs": ["a", "b"], "labels": [1]}, "a number for each of the 2 documents, got 1"),
        ({"query": "q", "docs": ["a", "b"], "labels": 1}, "a number for each of the 2 documents, got int"),
        ({"query": "q", "docs": [], "labels": []}, "at least one document, got none"),
        ({"query": "q", "passage": "a", "label": "yes"}, "to be a number or true and false, got 'yes'"),
        ({"query": "q", "passage": "a", "label": 1764547200}, 'expected "label" of at most 1,000,000, got 1.76455e+09'),
        ({"query": "q", "passage": "a", "label": 3.7}, "whole numbers (grades; 0 is not relevant) or numbers from 0"),
        ({"query": "q", "docs": ["a", "b"], "scores": [8.1, -3.5]}, "got 8.1, -3.5; a teacher's scores are a column"),
        ({"query": "q", "passage": "a", "label": "nan"}, "expected label to be finite"),
        ({"passage": "a", "label": 1}, 'no column "query"'),
        ({"query": "q", "documents": [{"text": "a", "label": 1}, "b"]}, "got none for document[1]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_labels_without_one_meaning_are_refused_with_their_line(put, row, message):
    assert message in refusal(put(row))


# Advice, which is followed here


def advised(message):
    return eval(re.search(r"columns=(\{[^}]*\})", message)[1])


def test_positives_beside_labels_that_say_otherwise_are_refused_with_advice_that_reads_both(put):
    path = put(*pairs())
    with_advice = advised(refusal(path, columns={"pos": "passage"}))
    assert grades(read_examples(path, columns=with_advice)[0]) == GRADES
    path = put({"query": "reset", "pos": [*GRADES], "labels": [*GRADES.values()]})
    assert grades(read_examples(path, columns=advised(refusal(path)))[0]) == GRADES


def test_of_two_columns_that_may_be_documents_one_is_to_be_named(put):
    path = put({"query": "q", "context": "a", "answer": "b", "label": 1})
    assert texts(read_examples(path, columns=advised(refusal(path)))[0], relevant=True) == ["a"]


def test_triplets_are_mapped_with_their_negatives(put):
    path = put({"anchor": "q", "positive": "p", "negative": "n"})
    columns = advised(refusal(path))
    assert columns == {"query": "anchor", "pos": "positive", "neg": "negative"}
    assert grades(read_examples(path, columns=columns)[0]) == {"p": 1.0, "n": 0.0}


@pytest.mark.parametrize("name", ["negatives", "passage", "nonpos", "irrelevant", "url", "text", "pos_id", "score"])
def test_nothing_is_advised_as_positive_that_may_be_something_else(put, name):
    assert "columns={'pos': '<its name>'" in refusal(put({"query": "q", name: ["x"]}))


def test_advice_on_an_unknown_column_keeps_the_negatives(put):
    path = put({"query": "q", "pos": ["p"], "year": 1, "negatives": ["n"]})
    with pytest.warns(UserWarning, match='"year" is not read'):
        [example] = read_examples(path, columns=advised(refusal(path)))
    assert grades(example) == {"p": 1.0, "n": 0.0}
    path = put({"query": "q", "pos": ["p"], "year": 1})
    with pytest.warns(UserWarning, match='"year" is not read'):
        assert read_examples(path, columns=advised(refusal(path)))


# Rows of one query


def test_rows_of_one_query_are_joined_and_relevant_wins(put):
    rows = [
        {"query": "q", "pos": ["a"], "neg": ["b"]},
        {"query": "r", "pos": ["x"]},
        {"query": " q", "pos": ["b", "c"]},
    ]
    first, second = joined(read_examples(put(*rows)))
    assert grades(first) == {"a": 1.0, "b": 1.0, "c": 1.0}
    assert (first.query, second.query, second.source[-2:]) == ("q", "r", ":2")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_of_a_document_in_several_rows_the_highest_grade_and_the_first_teachers_score_count(order):
    found = [Candidate("a", 2.0, None), Candidate("a", 0.0, 0.25), Candidate("a", 1.0, 0.75)]
    rows = [TrainingExample("q", (found[number], Candidate(f"n{number}", 0.0)), "s:1") for number in order]
    [example] = joined(rows)
    assert grades(example) == {"a": 2.0} | {f"n{number}": 0.0 for number in order}
    assert example.candidates[0].teacher_score == next(found[n].teacher_score for n in order if n)


def test_validation_counts_rows_and_says_that_they_are_joined(put):
    report = validate(put(*[{"query": "q", "pos": [name]} for name in "abc"]))
    assert any("queries occur more than once" in line and "joins" in line for line in report.warnings())


def test_no_list_is_filled_up_with_a_positive_of_its_query(put):
    rows = [{"query": f"q{n % 5}", "pos": [f"q{n % 5} p{n}"], "neg": [f"n{n}"]} for n in range(30)]
    lists = drawn_lists([read_examples(put(*rows))])
    assert not [text for query, text in lists if text.startswith(query)]


def test_a_positive_in_another_collection_is_no_negative_here(put):
    here = [{"query": "q", "pos": ["one"]}, {"query": "r", "pos": ["q two"], "neg": ["x", "y"]}]
    there = [{"query": "q  ", "pos": ["q two"]}]
    collections = [read_examples(put(*here, name="a.jsonl")), read_examples(put(*there, name="b.jsonl"))]
    assert ("q", "q two") not in drawn_lists(collections)


def drawn_lists(collections):
    """The query of every list with each of its documents of grade 0."""
    names = [str(number) for number in range(len(collections))]
    lists = TrainingLists(collections, FinetuneSettings(output="x", data=names, documents_per_list=8), 200)
    drawn = [lists[number] for number in range(200)]
    return {(found.query.strip(), c.text) for found in drawn for c in found.candidates if c.grade == 0}


def test_a_sampler_draws_nothing_that_is_known_to_be_relevant():
    example = TrainingExample("q", (Candidate("p", 1.0), Candidate("n", 0.0), Candidate("m", 0.0)), "x:1")
    found = ListSampler().sample(example, 4, random.Random(0), ["k", "o"], relevant={"n", "k"})
    assert sorted(candidate.text for candidate in found) == ["m", "o", "p"]


def test_mining_knows_a_query_by_its_words():
    examples = [TrainingExample(query, (Candidate(text, 1.0),), "x:1") for query, text in (("q", "a"), ("q ", "b"))]
    assert JudgedCorpus.from_examples(examples).relevant == {"q0": {"d0", "d1"}, "q1": {"d0", "d1"}}


def test_labelled_pairs_are_checked_like_any_data(put):
    report = validate(put(*pairs(), {"query": "reset", "passage": "y", "label": "maybe"}))
    assert [fault.line for fault in report.faults] == [4]
    assert json.dumps(report.as_json())
