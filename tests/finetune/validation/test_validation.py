"""Faults that are reported, and statistics of what there is."""

import json

import pytest
from rich.console import Console

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.finetune.data import read_examples
from blockrank_rerank.finetune.validation import DataReport, validate
from blockrank_rerank.formats import DataError
from tests.finetune.data_files import write_folder, write_jsonl

GOOD = {"query": "how long", "pos": ["a b", "c"], "neg": ["d e f g"]}


@pytest.fixture
def mixed(tmp_path):
    lines = [json.dumps(GOOD), "{", json.dumps({"query": ""}), "", json.dumps(GOOD | {"pos": []}), json.dumps(GOOD)]
    path = tmp_path / "mixed.jsonl"
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\n")
    return path


def words(texts, **_):
    return {"input_ids": [text.split() for text in texts]}


def test_every_faulty_line_is_reported_with_its_place(mixed):
    report = validate(mixed)
    assert [fault.line for fault in report.faults] == [2, 3, 5, 7]
    assert {fault.path for fault in report.faults} == {str(mixed)}
    assert (report.fault_count, report.usable, report.statistics.examples) == (4, False, 2)


def test_what_validation_calls_usable_can_be_read_and_nothing_else(mixed, tmp_path):
    good = write_jsonl(tmp_path / "good.jsonl", [GOOD])
    assert validate(good).usable
    assert len(read_examples(good)) == 1
    with pytest.raises(DataError) as error:
        read_examples(mixed)
    assert str(error.value) == str(validate(mixed).faults[0])


def test_faults_are_counted_beyond_those_kept(tmp_path):
    path = write_jsonl(tmp_path / "bad.jsonl", [1] * 50)
    report = validate(path, max_faults=3)
    assert (len(report.faults), report.fault_count) == (3, 50)


def test_faults_of_all_sources_are_reported(mixed, tmp_path):
    empty = write_jsonl(tmp_path / "empty.jsonl", [])
    report = validate(empty, mixed)
    assert report.fault_count == 5
    assert report.faults[0].path == str(empty)
    assert report.sources == (str(empty), str(mixed))


@pytest.mark.parametrize("content", [b"\xff\n", b"{\n", b"\n\xff\n{\n"])
def test_a_file_whose_lines_are_all_at_fault_is_not_called_empty(tmp_path, content):
    (tmp_path / "bad.jsonl").write_bytes(content)
    found = [str(fault) for fault in validate(tmp_path / "bad.jsonl").faults]
    assert len(found) == len(content.split())
    assert not any("empty" in fault for fault in found)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv"])
def test_a_file_of_a_folder_whose_lines_are_all_at_fault_is_not_called_empty(tmp_path, name):
    folder = write_folder(tmp_path / "bad")
    (folder / name).write_bytes(b"\xff\n")
    found = [str(fault) for fault in validate(folder).faults]
    assert found[0].startswith(f"{folder / name}:1: expected UTF-8")
    assert not any("empty" in fault or "no judgements" in fault for fault in found)


def test_all_faults_of_a_folder_are_reported_with_their_lines(tmp_path):
    folder = write_folder(
        tmp_path / "bad",
        documents={"d1": "x", "d2": 3},
        queries={"q1": "a", "q2": " "},
        judgements=[("q1", "d1", 1), ("q1", "d9", 1), ("q8", "d1", 1), ("q2", "d1", 1), ("q1", "d1", 2)],
    )
    places = [(fault.path.rsplit("/", 1)[1], fault.line) for fault in validate(folder).faults]
    assert places == [("corpus.jsonl", 2), ("queries.jsonl", 2), ("train.tsv", 3), ("train.tsv", 4), ("train.tsv", 6)]


def test_statistics_describe_the_lists(tmp_path):
    path = write_jsonl(
        tmp_path / "train.jsonl",
        [
            GOOD,
            {"query": "how long", "pos": ["a b"], "neg": []},
            {"query": "x", "pos": ["c", "c"], "neg": ["c", "d", " "], "pos_grades": [2, 1]},
            GOOD | {"query": "scored", "pos_scores": [1, 2], "neg_scores": [0]},
        ],
    )
    found = validate(path).statistics
    assert (found.examples, found.unique_documents) == (4, 5)
    assert (found.positives_per_query.min, found.positives_per_query.median, found.positives_per_query.max) == (1, 2, 2)
    assert (found.negatives_per_query.min, found.negatives_per_query.max) == (0, 3)
    assert (found.documents_per_query.max, found.documents_per_query.mean) == (5, 3)
    assert (found.document_words.min, found.document_words.max, found.query_words.max) == (0, 4, 2)
    assert (found.without_negatives, found.duplicated_documents, found.positives_also_negative) == (1, 1, 1)
    assert (found.duplicate_queries, found.empty_documents, found.graded, found.teacher_scored) == (1, 1, 1, 1)
    assert found.truncated_share is None


def test_the_share_of_truncated_documents_is_measured_with_a_tokenizer(tmp_path):
    path = write_jsonl(tmp_path / "train.jsonl", [GOOD])
    report = validate(path, tokenizer=words, token_cap=2)
    assert report.statistics.truncated_share == pytest.approx(1 / 3)
    assert any("33.3% of the documents are longer than the token cap" in line for line in report.warnings())


def test_a_query_of_a_folder_that_a_model_cannot_read_is_a_fault_with_its_line(tmp_path):
    folder = write_folder(tmp_path / "folder")
    path = folder / "queries.jsonl"
    lines = path.read_text().splitlines()
    assert validate(folder, prompt=BlockRankReranker.from_pretrained().engine.prompt).usable
    lines[0] = json.dumps(json.loads(lines[0]) | {"text": "liver " * 600})
    path.write_text("\n".join(lines) + "\n")
    report = validate(folder, prompt=BlockRankReranker.from_pretrained().engine.prompt)
    (fault,) = report.faults
    # The judgement that names the query, as for every fault of an example.
    assert (fault.path, fault.line) == (str(folder / "qrels/train.tsv"), 2)
    assert "query must have at most 511 tokens" in str(fault)
    cutting = BlockRankReranker.from_pretrained(long_queries="truncate").engine.prompt
    assert validate(folder, prompt=cutting).statistics.truncated_queries == 1


def test_a_folder_counts_its_corpus_and_the_copies_in_it(tmp_path):
    found = validate(write_folder(tmp_path / "folder")).statistics
    assert (found.examples, found.unique_documents, found.copied_documents) == (2, 7, 1)
    assert (found.graded, found.without_negatives) == (1, 1)


def test_a_report_is_json_and_a_table(mixed, tmp_path):
    report = validate(mixed)
    assert json.loads(json.dumps(report.as_json(), allow_nan=False))["faults"][0]["line"] == 2
    console = Console(width=100)
    with console.capture() as capture:
        console.print(report)
    assert "positives per query" in capture.get()
    nothing = validate(write_jsonl(tmp_path / "nothing.jsonl", []))
    assert isinstance(nothing, DataReport)
    assert json.loads(json.dumps(nothing.as_json()))["statistics"]["examples"] == 0


def test_a_cap_without_a_tokenizer_and_a_check_of_nothing_are_refused(mixed):
    with pytest.raises(ValueError, match="go together"):
        validate(mixed, token_cap=3)
    with pytest.raises(ValueError, match="at least one"):
        validate()
    with pytest.raises(FileNotFoundError):
        validate("no.jsonl")
