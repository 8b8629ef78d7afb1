"""Relevance judgements."""

import pytest

from blockrank_rerank.formats import read_qrels
from tests.formats.refusals import refusal


@pytest.mark.parametrize(
    "content",
    [
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t-1\n",
        "q1\td1\t2\r\nq1\td2\t0\r\nq2\td1\t-1\r\n",
        "q1 0 d1 2\nq1 0 d2 0\n\nq2 0 d1 -1\n",
        "q1\t0\td1\t2\nq1\t0\td2\t0\nq2\t0\td1\t-1\nq2\t0\td1\t-1\n",
    ],
    ids=["beir", "beir-without-header-crlf", "trec", "trec-with-a-repeated-line"],
)
def test_judgements_are_read_in_every_form_in_circulation(put, content):
    assert read_qrels(put("test.tsv", content)) == {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": -1}}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "q1 d1",
            "expected 3 columns (query, document, judgement) or 4 (query, iteration, document, judgement) separated "
            "by tabs or spaces, got 2",
        ),
        ("q1\td1\trelevant", "expected an integer judgement, got 'relevant'"),
        ("q1\td1\t1.5", "expected an integer judgement, got '1.5'"),
        ("q1\t0\t2\t7067032", "expected a judgement of at most 1,000,000, got 7067032: check the order of the columns"),
        ("q0\td0\t0", "query 'q0', document 'd0': judged 1 above and 0 here; keep one"),
    ],
)
def test_a_malformed_judgement_is_refused_with_file_and_line(put, line, found):
    assert refusal(read_qrels, put("test.tsv", f"q0\td0\t1\n{line}\n")) == f"test.tsv:2: {found}"


def test_a_malformed_first_judgement_is_not_taken_for_a_header(put):
    assert refusal(read_qrels, put("test.tsv", "q\td\tyes\n")) == "test.tsv:1: expected an integer judgement, got 'yes'"


def test_judgements_without_any_line_are_refused(put):
    assert "no judgements" in refusal(read_qrels, put("test.tsv", "query-id\tcorpus-id\tscore\n"))
