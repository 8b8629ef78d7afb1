"""Judgements and runs in the forms that circulate beside BEIR's and TREC's."""

import pytest

from blockrank_rerank.finetune.data.beir_folder import read_judged_corpus
from blockrank_rerank.finetune.data.row import refuse
from blockrank_rerank.formats import read_qrels, read_run
from tests.formats.refusals import refusal

QRELS = {"q1": {"d1": 2, "d2": 0}}


@pytest.mark.parametrize(
    "content",
    [
        "query-id\tcorpus-id\tscore\nq1\td1\t2.0\nq1\td2\t0.0\n",
        "Query-ID\tCorpus-ID\tScore\nq1\td1\t2\nq1\td2\t0\n",
        "qid\tdocid\tgrade\nq1\td1\t+2\nq1\td2\t-0.0\n",
        "query\titer\tdoc\tqrel\nq1\t0\td1\t2\nq1\t0\td2\t0\n",
        "qid 0 docno relevance\nq1 0 d1 2e0\nq1 0 d2 0\n",
        '"query-id"\t"corpus-id"\t"score"\nq1\td1\t2\nq1\td2\t0\n',
        '"query-id"\t"corpus-id"\t"score"\n"q1"\t"d1"\t"2"\n"q1"\t"d2"\t0\n',
        "query-id,corpus-id,score\nq1,d1,2\nq1,d2,0\n",
        "q1, d1, 2\nq1, d2, 0\n",
        ",query-id,corpus-id,score\n0,q1,d1,2.0\n1,q1,d2,0.0\n",
        "corpus-id\tquery-id\tscore\nd1\tq1\t2\nd2\tq1\t0\n",
        "score\tquery_id\tdoc_id\n2\tq1\td1\n0\tq1\td2\n",
        "query-id\tcorpus-id\thow_good\nq1\td1\t2\nq1\td2\t0\n",
        '{"query-id": "q1", "corpus-id": "d1", "score": 2.0}\n{"query-id": "q1", "corpus-id": "d2", "score": 0}\n',
        "q1 0 d1\t2\nq1 0 d2\t0\t\n",
    ],
)
def test_judgements_with_one_meaning_are_read(put, content):
    assert read_qrels(put("test.tsv", content)) == QRELS


def test_ids_between_tabs_keep_their_spaces_and_an_own_quotation_mark(put):
    assert read_qrels(put("test.tsv", 'q 1\t0\td 1\t1\n"q\t0\td"\t1\n')) == {"q 1": {"d 1": 1}, '"q': {'d"': 1}}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("q1\td1\t0.5", "expected an integer judgement, got '0.5'"),
        ("q1\td1\tnan", "expected an integer judgement, got 'nan'"),
        ("q1\td1\t1e300", "expected an integer judgement, got '1e300'"),
        ("q1\td1\t1_0", "expected an integer judgement, got '1_0'"),
        ("query-id\tcorpus-id\tscore", "expected an integer judgement, got 'score'"),
        ("\td1\t1", "expected an id of a query and one of a document, got an empty one"),
        ("q1 d1 0 0.5 x", "expected 3 columns (query, document, judgement) or 4 (query, iteration, document, "),
        ('{"query-id": "q1", "score": 1}', 'expected a JSON object with "query-id", "corpus-id" and "score", got the '),
        ('{"query-id": "q1", "corpus-id": "d", "score": null}', "expected an integer judgement, got null"),
        ('{"query-id": "q1", "corpus-id": {}, "score": 1}', 'expected "corpus-id" to be a string, got dict'),
    ],
)
def test_judgements_without_one_meaning_are_refused_with_file_and_line(put, line, found):
    assert refusal(read_qrels, put("test.tsv", f"q0\td0\t1\n{line}\n")).startswith(f"test.tsv:2: {found}")


def test_a_line_that_has_other_columns_than_the_first_names_is_refused(put):
    path = put("test.tsv", "corpus-id\tquery-id\tscore\nq1\t0\td1\t1\n")
    assert refusal(read_qrels, path) == "test.tsv:2: expected 3 columns, as the first line names them, got 4"


def test_judgements_for_training_are_read_by_the_same_reader(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "text": "a"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "b"}\n')
    (tmp_path / "qrels" / "train.tsv").write_text("Corpus-ID\tQuery-ID\tScore\nd1\tq1\t1.0\n")
    assert read_judged_corpus(tmp_path, "train", refuse).positives == {"q1": {"d1": 1.0}}


@pytest.mark.parametrize(
    "content",
    [
        "q1 Q0 a 1.0 0.9 t\nq1 Q0 b 2.0 0.8 t\n",
        "q1\ta\t1\nq1\tb\t2\n",
        "query Q0 document rank score\nq1 Q0 a 1 0.9\nq1 Q0 b 2 0.8\n",
        "q1 a 1 0.9 t\nq1 b 2 0.8 t\n",
        "q1\tb\t0.8\nq1\ta\t0.9\n",
        "qid\tpid\trank\nq1\tb\t7\nq1\ta\t3\n",
        "query-id,document-id,score\nq1,b,1\nq1,a,2\n",
        "qid docno rank score\nq1 b 2 0.8\nq1 a 1 0.9\n",
        "qid Q0 docno rank score tag\nq1 Q0 b 2 0.8 t\nq1 Q0 a 1 0.9 t\n",
        '"q1"\t"Q0"\t"a"\t1\t0.9\t"t"\n"q1"\t"Q0"\t"b"\t2\t0.8\t"t"\n',
    ],
)
def test_runs_with_one_meaning_are_read(put, content):
    run = read_run(put("r.trec", content))
    assert list(run) == ["q1"]
    assert list(run["q1"]) == ["a", "b"]
    assert run["q1"]["a"] > run["q1"]["b"]


def test_ids_of_a_run_between_tabs_keep_their_spaces(put):
    run = read_run(put("r.trec", "q 1\tQ0\td 1\t1\t0.5\tmy run\nq 1\tQ0\td 2\t2\t0.4\tmy run\n"))
    assert run == {"q 1": {"d 1": 0.5, "d 2": 0.4}}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("q a 3\nq b 1\n", "r.trec:1: the third column may be a rank or a score, got 3"),
        ("q a 1\nq b 1\n", "r.trec:2: the third column may be a rank or a score, got 1"),
        ("q a 1\nq b x\n", "r.trec:2: expected a finite score, got 'x'"),
        ("q a 1\nq b 2 0.5 t\n", "r.trec:2: expected 3 columns, as in the first line, got 5"),
        ("q Q0 a 1.5 0.9 t\n", "r.trec:1: expected an integer rank, got '1.5'"),
        ("q 0 a 1\n", "r.trec:1: expected 6 columns (query, Q0, document, rank, score, tag), got 4"),
        ("q Q0 a 1 t\n", "r.trec:1: expected 6 columns (query, Q0, document, rank, score, tag), got 5"),
        ("\tQ0\ta\t1\t0.9\tt\n", "r.trec:1: expected an id of a query and one of a document, got an empty one"),
    ],
)
def test_runs_without_one_meaning_are_refused_with_file_and_line(put, content, found):
    assert refusal(read_run, put("r.trec", content)).startswith(found)


def test_the_advice_for_other_columns_helps(put):
    assert "such as: qid docno rank score" in refusal(read_run, put("r.trec", "q a 1 0.5\n"))
    assert read_run(put("s.trec", "qid docno rank score\nq a 1 0.5\n")) == {"q": {"a": 0.5}}


def test_the_advice_for_three_columns_helps(put):
    assert "query-id document-id score" in refusal(read_run, put("r.trec", "q a 3\nq b 1\n"))
    assert read_run(put("s.trec", "query-id document-id score\nq a 3\nq b 1\n")) == {"q": {"a": 3.0, "b": 1.0}}
    assert list(read_run(put("k.trec", "query-id document-id rank\nq a 3\nq b 1\n"))["q"]) == ["b", "a"]
