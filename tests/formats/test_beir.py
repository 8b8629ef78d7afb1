"""Queries and documents of BEIR folders."""

import pytest

from blockrank_rerank.formats import read_corpus, read_queries
from tests.formats.refusals import refusal


def test_queries_and_corpus_are_read(put):
    assert read_queries(put("q.jsonl", '{"_id": "1", "text": "who"}\n{"_id": 2, "text": "what"}')) == {
        "1": "who",
        "2": "what",
    }
    lines = [
        '{"_id": "a", "title": "T", "text": "x"}',
        '{"_id": "b", "title": "", "text": "y"}',
        '{"_id": "c", "text": ""}',
    ]
    assert read_corpus(put("c.jsonl", "\n".join(lines))) == {
        "a": {"title": "T", "text": "x"},
        "b": "y",
        "c": "",
    }


def test_only_the_documents_asked_for_are_kept(put):
    lines = "".join(f'{{"_id": "{i}", "text": "x"}}\n' for i in range(9))
    assert list(read_corpus(put("c.jsonl", lines), keep={"3", "7", "absent"})) == ["3", "7"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("[]", 'expected a JSON object with "_id" and "text", got list'),
        ('"x"', 'expected a JSON object with "_id" and "text", got str'),
        (
            '{"id": "1", "text": "x"}',
            "expected a JSON object with \"_id\" and \"text\", got keys ['id', 'text']",
        ),
        ('{"_id": null, "text": "x"}', 'expected "_id" to be a string, got null'),
        ('{"_id": "a", "text": ["x"]}', 'expected "text" to be a string, got list'),
        ('{"_id": "0", "text": "x"}', "expected every \"_id\" once, got '0' again"),
        ("{x", "not valid JSON: Expecting property name enclosed in double quotes at column 2"),
    ],
)
@pytest.mark.parametrize("read", [read_queries, read_corpus])
def test_a_malformed_beir_line_is_refused_with_file_and_line(put, read, line, found):
    path = put("corpus.jsonl", "".join(f'{{"_id": "{i}", "text": "x"}}\n' for i in range(16)) + line)
    assert refusal(read, path) == f"corpus.jsonl:17: {found}"


@pytest.mark.parametrize(("read", "noun"), [(read_queries, "query"), (read_corpus, "document")])
def test_an_empty_beir_file_is_refused(put, read, noun):
    assert refusal(read, put("x.jsonl", "\n")) == f"x.jsonl: the file is empty: expected one {noun} per line"
