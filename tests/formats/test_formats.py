import errno
import io
import itertools
import math
import os
import random
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockrank_rerank.files import replacing
from blockrank_rerank.formats import (
    DataError,
    check_output_path,
    read_corpus,
    read_documents,
    read_qrels,
    read_queries,
    read_run,
    write_run,
)
from blockrank_rerank.formats.trec import strictly_falling


@pytest.fixture
def put(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def stdin(monkeypatch):
    def feed(content):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))

    return feed


def refusal(read, path):
    with pytest.raises(DataError) as error:
        read(path)
    assert error.value.path is None or error.value.path == str(path)
    return str(error.value).removeprefix(f"{path.parent}{os.sep}")


# Documents


def test_a_text_file_holds_one_document_per_non_blank_line(put):
    path = put("a.txt", "first\n\n   \n  second \nthird")
    documents = read_documents([path])
    assert [document.text for document in documents] == ["first", "second", "third"]
    assert [document.source for document in documents] == [f"{path}:1", f"{path}:4", f"{path}:5"]


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_a_document(put):
    path = put("a.txt", b"\xef\xbb\xbffirst\r\nsecond\r\n")
    assert [document.text for document in read_documents([path])] == ["first", "second"]


def test_unusual_line_separators_inside_a_line_do_not_split_a_document(put):
    text = "one\u2028two\x85three\x0cfour"
    assert [document.text for document in read_documents([put("a.txt", text)])] == [text]
    assert [document.text for document in read_documents([put("a.jsonl", '"a\u2028b"\n')])] == ["a\u2028b"]


@pytest.mark.parametrize(
    "text", ["👩‍👩‍👧 emoji", "</s> [INST] [SEP] <|im_start|>", "[bold]x[/]", "مرحبا", "nul \x00 here"]
)
def test_unusual_text_is_read_unchanged(put, text):
    assert read_documents([put("a.txt", text)])[0].text == text


def test_jsonl_holds_strings_and_objects_and_other_keys_are_kept(put):
    path = put("a.jsonl", '"plain"\n{"_id": "d1", "title": "T", "text": "x", "year": 1999}\n{"id": 7, "text": ""}\n')
    plain, titled, empty = read_documents([path])
    assert (plain.text, plain.id, plain.content) == ("plain", None, "plain")
    assert (titled.id, titled.metadata, titled.content) == ("d1", {"year": 1999}, {"title": "T", "text": "x"})
    assert (empty.id, empty.text, empty.content) == ("7", "", "")


def test_a_lone_surrogate_in_a_json_escape_is_read(put):
    assert read_documents([put("a.jsonl", '"half \\ud83d a pair"\n')])[0].text == "half \ud83d a pair"


def test_files_keep_their_order(put):
    paths = [put("b.txt", "b"), put("a.jsonl", '"a"'), put("c.txt", "c")]
    assert [document.text for document in read_documents(paths)] == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("[1]", 'expected a string or a JSON object with "text", got list'),
        ("null", 'expected a string or a JSON object with "text", got null'),
        ("{}", 'expected "text" to be a string, got nothing'),
        ('{"text": 3}', 'expected "text" to be a string, got int'),
        ('{"text": null}', 'expected "text" to be a string, got null'),
        ('{"text": "x", "title": []}', 'expected "title" to be a string, got list'),
        ('{"text": "x", "id": true}', 'expected "id" to be a string, got bool'),
        ('{"text": "x", "_id": ""}', 'expected "_id" to be a non-empty string, got ""'),
        ('{"text": "x"', "not valid JSON: Expecting ',' delimiter at column 13"),
        ('{"text": "x", "score": NaN}', "not usable JSON: NaN is not JSON"),
        ('{"text": "x", "score": -1e999}', "not usable JSON: -1e999 is not a finite number"),
    ],
)
def test_a_malformed_jsonl_line_is_refused_with_file_and_line(put, line, found):
    path = put("a.jsonl", f'"fine"\n\n{line}\n')
    assert refusal(lambda p: read_documents([p]), path) == f"a.jsonl:3: {found}"


def test_json_nested_beyond_reason_is_refused(put):
    path = put("a.jsonl", "[" * 200_000)
    assert refusal(lambda p: read_documents([p]), path).startswith("a.jsonl:1: not usable JSON")


def test_a_json_array_in_a_json_file_is_not_taken_for_text(put):
    path = put("a.json", '[\n"x",\n"y"\n]')
    found = refusal(lambda p: read_documents([p]), path)
    assert found.startswith("a.json:1: not valid JSON")
    assert "jq -c" in found


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_bytes_that_are_not_utf8_are_refused_with_file_line_and_byte(put, name):
    path = put(name, b'"fine"\n"caf\xe9"\n')
    expected = f"{name}:2: expected UTF-8 text, got byte 0xe9 at position 5; convert the file to UTF-8"
    assert refusal(lambda p: read_documents([p]), path) == expected


@pytest.mark.parametrize("content", ["", "\n \n\r\n", b"\xef\xbb\xbf"])
def test_files_without_any_document_are_refused_by_name(put, content):
    path = put("a.txt", content)
    with pytest.raises(DataError, match=r"no documents in .*a\.txt: expected one document per non-empty line"):
        read_documents([path])


def test_an_empty_file_beside_a_full_one_is_no_error(put):
    assert len(read_documents([put("a.txt", ""), put("b.txt", "x")])) == 1


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("plain\n{not json}\n", ["plain", "{not json}"]),
        ('\n{"text": "a"}\n"b"\n', ["a", "b"]),
        ('"a"\n', ["a"]),
    ],
)
def test_standard_input_is_jsonl_when_its_first_line_looks_like_it(stdin, content, texts):
    stdin(content)
    assert [document.text for document in read_documents([_dash()])] == texts


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
@pytest.mark.parametrize("content", ['{"text": "a"}\n"b"\n', "a\nb\n"])
def test_a_pipe_is_read_like_standard_input(tmp_path, content):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(content,))
    writer.start()
    documents = read_documents([pipe])
    writer.join()
    assert [(document.text, document.source) for document in documents] == [("a", f"{pipe}:1"), ("b", f"{pipe}:2")]


def test_empty_standard_input_is_refused(stdin):
    stdin("")
    with pytest.raises(DataError, match="no documents in <stdin>"):
        read_documents([_dash()])


def test_a_malformed_line_of_standard_input_is_named(stdin):
    stdin('"a"\nb\n')
    with pytest.raises(DataError, match=r"^<stdin>:2: not valid JSON"):
        read_documents([_dash()])


def _dash():
    return Path("-")


# BEIR


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
        ("q0\td0\t0", "query 'q0', document 'd0': judged 1 above and 0 here; keep one"),
    ],
)
def test_a_malformed_judgement_is_refused_with_file_and_line(put, line, found):
    assert refusal(read_qrels, put("test.tsv", f"q0\td0\t1\n{line}\n")) == f"test.tsv:2: {found}"


def test_a_malformed_first_judgement_is_not_taken_for_a_header(put):
    assert refusal(read_qrels, put("test.tsv", "q\td\tyes\n")) == "test.tsv:1: expected an integer judgement, got 'yes'"


def test_judgements_without_any_line_are_refused(put):
    assert "no judgements" in refusal(read_qrels, put("test.tsv", "query-id\tcorpus-id\tscore\n"))


# TREC runs


def test_a_run_is_ranked_by_score_then_rank_then_first_appearance(put):
    lines = ["q Q0 c 3 1.0 t", "q Q0 low 1 0.5 t", "q Q0 b 2 1.0 t", "q Q0 d 3 1.0 t", "p Q0 x 1 -7 t"]
    run = read_run(put("r.trec", "\n".join(lines)))
    assert {query: list(ranking) for query, ranking in run.items()} == {
        "q": ["b", "c", "d", "low"],
        "p": ["x"],
    }
    assert run["q"]["low"] == 0.5


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("q Q0 d 1 0.5", "expected 6 columns (query, Q0, document, rank, score, tag), got 5"),
        ("q Q0 d one 0.5 t", "expected an integer rank, got 'one'"),
        ("q Q0 d 1 high t", "expected a finite score, got 'high'"),
        ("q Q0 d 1 nan t", "expected a finite score, got 'nan'"),
        ("q Q0 d 1 -inf t", "expected a finite score, got '-inf'"),
        ("q Q0 a 2 0.1 t", "expected every document once per query, got 'a' again for query 'q'"),
    ],
)
def test_a_malformed_run_line_is_refused_with_file_and_line(put, line, found):
    assert refusal(read_run, put("r.trec", f"q Q0 a 1 0.9 t\n{line}\n")) == f"r.trec:2: {found}"


def test_an_empty_run_is_refused(put):
    assert refusal(read_run, put("r.trec", "")).startswith("r.trec: the run is empty")


def test_a_written_run_reads_back_in_the_same_order(tmp_path):
    run = {"q1": {"b": 0.5, "a": 0.25}, "q2": {"z": 1.0}}
    write_run(tmp_path / "out.trec", run)
    assert (tmp_path / "out.trec").read_text() == (
        "q1 Q0 b 1 0.5 blockrank\nq1 Q0 a 2 0.25 blockrank\nq2 Q0 z 1 1.0 blockrank\n"
    )
    assert read_run(tmp_path / "out.trec") == run


float32s = st.floats(width=32, allow_nan=False, min_value=-(2.0**100), max_value=2.0**100)


@given(st.lists(float32s, min_size=1, max_size=20))
def test_distinct_scores_are_written_unchanged_and_ties_fall_strictly(scores):
    ordered = sorted(scores, reverse=True)
    written = [float(text) for text in strictly_falling(ordered)]
    assert all(above > below for above, below in itertools.pairwise(written))
    if len(set(ordered)) == len(ordered):
        assert [np.float32(value) for value in written] == [np.float32(value) for value in ordered]


def test_tied_scores_keep_the_ranking_in_tools_that_break_ties_by_document_id(tmp_path):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    documents = [f"d{i}" for i in range(50)]
    random.Random(0).shuffle(documents)
    for score in (0.0, 1e-8, 0.3, 1.0, 123.456):
        write_run(tmp_path / "out.trec", {"q": dict.fromkeys(documents, score)})
        written = pytrec_eval.parse_run((tmp_path / "out.trec").open())
        for rank, document in enumerate(documents, start=1):
            evaluator = pytrec_eval.RelevanceEvaluator({"q": {document: 1}}, {"recip_rank"})
            assert evaluator.evaluate(written)["q"]["recip_rank"] == pytest.approx(1 / rank)


def test_tied_zeros_do_not_turn_into_negative_scores():
    assert all(float(text) >= 0 for text in strictly_falling([0.0] * 5))


@pytest.mark.parametrize("score", [math.nan, math.inf, 1e300])
def test_a_score_that_a_run_cannot_hold_leaves_the_old_file_alone(tmp_path, score):
    path = tmp_path / "out.trec"
    path.write_text("old")
    with pytest.raises(DataError, match="expected finite single-precision scores"):
        write_run(path, {"good": {"a": 1.0}, "bad": {"a": score}})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("identifier", ["two words", "", "tab\t", "half\ud800pair", "no\u00a0break"])
def test_an_id_that_would_break_the_columns_is_refused_and_nothing_is_written(tmp_path, identifier):
    with pytest.raises(DataError, match="cannot stand in a TREC run"):
        write_run(tmp_path / "out.trec", {"q": {identifier: 1.0}})
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_nothing_behind(tmp_path):
    class Interrupted(dict):
        def items(self):
            yield "q", {"a": 1.0}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_run(tmp_path / "out.trec", Interrupted(q={}))
    assert not list(tmp_path.iterdir())


def test_a_written_run_has_the_rights_that_the_umask_grants(tmp_path):
    write_run(tmp_path / "out.trec", {"q": {"a": 1.0}})
    (tmp_path / "plain").touch()
    assert (tmp_path / "out.trec").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_writing_through_a_link_replaces_the_file_behind_it(tmp_path):
    (tmp_path / "real.trec").write_text("old")
    (tmp_path / "link.trec").symlink_to("real.trec")
    write_run(tmp_path / "link.trec", {"q": {"a": 1.0}})
    assert (tmp_path / "link.trec").is_symlink()
    assert (tmp_path / "real.trec").read_text() == "q Q0 a 1 1.0 blockrank\n"


def test_an_output_that_cannot_be_written_is_refused_beforehand(tmp_path):
    with pytest.raises(IsADirectoryError):
        check_output_path(tmp_path)
    with pytest.raises(FileNotFoundError, match="create it first"):
        check_output_path(tmp_path / "absent" / "out.trec")
    with pytest.raises(ValueError, match="expected a regular output file"):
        check_output_path(type(tmp_path)(os.devnull))
    with pytest.raises(ValueError, match="not to standard output; got '-'"):
        check_output_path(type(tmp_path)("-"))


def test_a_disk_that_is_full_while_writing_is_named_by_the_file(tmp_path):
    path = tmp_path / "run.trec"
    with pytest.raises(OSError, match="No space left") as stopped, replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert stopped.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
