"""Training data in CSV and TSV files."""

from __future__ import annotations

import csv
import gzip

import pytest

from blockrank_rerank.finetune.data import read_examples
from blockrank_rerank.finetune.validation import validate
from blockrank_rerank.formats import DataError


@pytest.fixture
def put(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name, content):
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    return write


def shown(example):
    return example.query, [(c.text, c.grade) for c in example.candidates]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'query,pos,neg\nq,"p, with a comma",n\n'),
        ("a.tsv", "query\tpos\tneg\nq\tp, with a comma\tn\n"),
        ("a.csv", "\ufeffquery;neg;pos\r\nq;n;p, with a comma\r\n"),
    ],
)
def test_a_table_of_triplets_is_read(put, name, content):
    [example] = read_examples(put(name, content))
    assert shown(example) == ("q", [("p, with a comma", 1.0), ("n", 0.0)])
    assert example.source == f"{name}:2"


def test_text_between_tabs_may_begin_with_a_quotation_mark(put):
    path = put("a.tsv", 'query\tpos\tneg\nq\t"p" one\tn\nr\t"s\tn\nt\tu"\tn\n')
    assert [(e.source, e.candidates[0].text) for e in read_examples(path)] == [
        ("a.tsv:2", '"p" one'),
        ("a.tsv:3", '"s'),
        ("a.tsv:4", 'u"'),
    ]


def test_columns_of_a_table_are_mapped(put):
    path = put("a.csv", "question,answer,wrong,year\nq,p,n,1999\n")
    with pytest.warns(UserWarning, match='"year" is not read'):
        [example] = read_examples(path, columns={"query": "question", "pos": "answer", "neg": "wrong"})
    assert shown(example) == ("q", [("p", 1.0), ("n", 0.0)])
    with pytest.raises(DataError, match=r'a\.csv:2: no column "query".*--column query=question'):
        read_examples(path)


def test_a_table_of_labelled_pairs_is_read_by_query(put):
    [example] = read_examples(put("a.csv", "query,passage,label\nq,p,1\nq,n,0\n"))
    assert shown(example) == ("q", [("p", 1.0), ("n", 0.0)])


def test_an_empty_cell_is_nothing(put):
    first, second = read_examples(put("a.csv", "query,pos,neg\nq,p,\nr,s,n\n"))
    assert (len(first.candidates), len(second.candidates)) == (1, 2)


def test_a_cell_may_have_several_lines(put):
    first, second = read_examples(put("a.csv", 'query,pos\nq,"p\nmore"\nr,s\n'))
    assert (first.candidates[0].text, first.source, second.source) == ("p\nmore", "a.csv:2", "a.csv:4")


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv.gz", "query,pos\nq,p\n"), ("a.jsonl.gz", '{"query": "q", "pos": ["p"]}\n')]
)
def test_compressed_rows_are_read_as_what_they_are(put, name, content):
    [example] = read_examples(put(name, gzip.compress(content.encode())))
    assert (example.query, example.positives[0].text) == ("q", "p")


def test_rows_that_are_no_whole_gzip_file_are_refused(put):
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: expected a whole gzip file"):
        read_examples(put("a.jsonl.gz", gzip.compress(b"x")[:12]))


def test_a_cell_may_be_a_document_of_any_length(put):
    csv.field_size_limit(131_072)
    [example] = read_examples(put("a.csv", f"query,pos\nq,{'word ' * 30000}\n"))
    assert len(example.positives[0].text) > 131_072


def test_blank_lines_in_a_cell_are_part_of_it_and_others_are_counted(put):
    first, second = read_examples(put("a.csv", '\nquery,pos\n\nq,"p\n\n \nmore"\n\nr,s\n'))
    assert (first.candidates[0].text, first.source, second.source) == ("p\n\n\nmore", "a.csv:4", "a.csv:9")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "a.csv: the file is empty: expected a line that names the columns"),
        ("query,pos\nq,p,x\n", "a.csv:2: expected 2 cells, as the first line has, got 3"),
        ('query,pos\nq,"p"x\n', "a.csv:2: not a row of a table"),
        ("query,pos,pos\nq,p,x\n", "a.csv:1: expected every column to have a name of its own"),
        ("q,p\nr,s\n", 'a.csv:2: no column "query", "pos"'),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_with_its_line(put, content, found):
    with pytest.raises(DataError) as error:
        read_examples(put("a.csv", content))
    assert str(error.value).startswith(found)


def test_every_faulty_row_is_found(put):
    path = put("a.csv", "query,pos\nq,p\nq\n,p\nr,s\n\nq,p,x\n")
    report = validate(path)
    assert [fault.line for fault in report.faults][:2] == [3, 4]
    assert (report.fault_count, report.statistics.examples) == (3, 2)
