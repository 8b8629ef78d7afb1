"""Documents in JSON over several lines, in tables, and in what must not be ranked as text."""

import csv
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.formats import DataError, read_collection, read_corpus, read_documents, read_qrels, read_run
from tests.formats.refusals import refusal

ARRAYS = [
    '[{"text": "a"}, {"text": "b"}]\n',
    '[\n  {"text": "a"},\n  {"text": "b"}\n]\n',
    '[{"text": "a"},\n {"text": "b"}]',
    '["a", "b"]',
    '[\n"a",\n"b"\n]\n\n',
]
OBJECTS = ['{"text": "a"}\n{"text": "b"}\n', '{\n  "text": "a"\n}\n{\n  "text": "b"\n}\n']
TABLES = [
    "id,text\n1,a\n2,b\n",
    "text,title\na,\nb,\n",
    '"id","text"\n"1","a"\n"2","b"\n',
    "_id\ttext\n1\ta\n2\tb\n",
    "Title;Text\n;a\n;b\n",
    ",text,label\n0,a,1\n1,b,0\n",
]


@pytest.mark.parametrize("content", [*ARRAYS, *OBJECTS, *TABLES])
def test_structure_on_standard_input_is_read_and_not_ranked(stdin, content):
    stdin(content)
    assert [document.text for document in read_documents([Path("-")])] == ["a", "b"]


@pytest.mark.parametrize("content", [*ARRAYS, *OBJECTS[:1], *TABLES])
def test_structure_in_text_files_is_read_and_not_ranked(put, content):
    assert [document.text for document in read_documents([put("a.txt", content)])] == ["a", "b"]


def test_titles_ids_and_other_columns_of_a_table_are_kept(put):
    path = put("a.csv", 'ID,Title,text,year\nd1,T,"one, two",1999\n')
    [document] = read_documents([path])
    assert (document.id, document.title, document.text, document.metadata) == ("d1", "T", "one, two", {"year": "1999"})
    assert document.source == f"{path}:2"


def test_blank_lines_in_a_cell_are_part_of_it_and_others_are_counted(put):
    path = put("a.csv", '\nid,text\r\n1,"one\r\n\r\n \r\ntwo"\r\n\r\n2,three\r\n')
    first, second = read_documents(path)
    assert (first.text, first.source) == ("one\n\n\ntwo", f"{path}:3")
    assert (second.text, second.source) == ("three", f"{path}:8")


def test_a_cell_may_be_a_document_of_any_length(put):
    csv.field_size_limit(131_072)
    [found] = read_documents(put("a.csv", f"id,text\n1,{'word ' * 30000}\n"))
    assert len(found.text) == 150_000


def test_elements_of_an_array_say_on_which_line_they_begin(stdin):
    stdin('\n[\n {"text": "a"},\n\n {"text":\n "b"}\n]')
    assert [document.source for document in read_documents([Path("-")])] == ["<stdin>:3", "<stdin>:5"]


@pytest.mark.parametrize(
    "content",
    [
        "[1] Smith, A.\n[2] Jones, B.\n",
        "[sic] he said\n",
        "{not json}\n",
        "text\nmore text\n",
        "Title, and what follows\n",
        "plain, with commas, text\n",
        "one\ttwo\n",
        f"{'word, ' * 40_000}\n",
    ],
)
def test_text_that_looks_a_little_like_structure_is_text(put, content):
    lines = [line.strip() for line in content.splitlines()]
    assert [document.text for document in read_documents([put("a.txt", content)])] == lines


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('[{"text": "a"}, 3]', '<stdin>:1: expected a string or a JSON object with "text", got int'),
        ('[{"text": "a"},\n{"text": "b"]', "<stdin>:2: not valid JSON"),
        ('[{"text": "a"}', "<stdin>:1: not valid JSON: the array has no end"),
        ('["a"] ["b"]', "<stdin>:1: not valid JSON: the array has no end, or text after it"),
        ('[{"blurb": "a"}]', '<stdin>:1: expected "text" to be a string, got nothing; found: "blurb"; name the one'),
        ("id,text\n1,a,b\n", "<stdin>:2: expected 2 cells, as the first line has, got 3"),
        ('id,text\n1,"a\n', "<stdin>:2: not a row of a table"),
        ("id,text,text\n1,a,b\n", "<stdin>:1: this is a table: expected a first line that names its columns"),
        ("id,x,text,x\n1,a,b,c\n", "<stdin>:1: expected every column to have a name of its own"),
        ("id,passage,body\n1,a,b\n", '<stdin>:1: "passage", "body" may each be the text; choose one: --column text='),
        ("<!DOCTYPE html>\n<html>\n", "<stdin>:1: this is markup"),
        ('<?xml version="1.0"?>\n', "<stdin>:1: this is markup"),
        ("[" * 100_000, "<stdin>:1: not usable JSON: brackets are nested more than 200 deep"),
        ('{"text": "x", "m": ' + "[" * 500 + "]" * 500 + "}", "<stdin>:1: not usable JSON: brackets are nested"),
    ],
)
def test_structure_that_cannot_be_read_is_refused_with_file_and_line(stdin, content, found):
    stdin(content)
    with pytest.raises(DataError) as error:
        read_documents([Path("-")])
    assert str(error.value).startswith(found)


def read_documents_of(path):
    return read_documents([path])


def test_a_csv_file_without_named_columns_is_refused(put):
    assert refusal(read_documents_of, put("a.csv", "d1,fleas\n")).startswith("a.csv:1: this is a table")


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_the_advice_to_write_one_value_per_line_with_jq_helps(put, stdin):
    path = put("a.json", '[\n{"text": "a"},\n{"text": "b"}\n]')
    assert "jq -c '.[]' FILE" in refusal(read_documents_of, path)
    stdin(subprocess.run(["jq", "-c", ".[]", path], capture_output=True, text=True, check=True).stdout)
    assert [document.text for document in read_documents([Path("-")])] == ["a", "b"]


def test_the_advice_to_name_a_column_text_helps(put):
    assert '"text"' in refusal(read_documents_of, put("a.csv", "id,blurb\n1,a\n"))
    assert read_documents([put("b.csv", "id,text\n1,a\n")])[0].text == "a"


# JSON that is nested too deeply


def nested(count):
    return "[" * count + "]" * count


@pytest.mark.parametrize("count", [201, 1_000, 100_000])
def test_deeply_nested_json_is_refused_by_every_reader_with_file_and_line(put, count):
    for read, content in (
        (read_documents_of, f'{{"text": "x", "m": {nested(count)}}}'),
        (read_corpus, f'{{"_id": "d", "text": "x", "m": {nested(count)}}}'),
        (read_qrels, f'{{"query-id": "q", "corpus-id": "d", "score": {nested(count)}}}'),
    ):
        found = refusal(read, put("a.jsonl", content + "\n"))
        assert found.startswith("a.jsonl:1: not usable JSON: brackets are nested more than 200 deep"), found


def test_brackets_inside_strings_are_no_nesting(put):
    text = "[{" * 500 + '"\\'
    [document] = read_documents([put("a.jsonl", json.dumps({"text": text}))])
    assert document.text == text


def test_what_is_read_can_be_written_again(put):
    [document] = read_documents([put("a.jsonl", f'{{"text": "x", "m": {nested(199)}}}')])
    assert json.dumps(document.metadata)


@pytest.mark.parametrize("content", [nested(100_000), '{"version": ' + "9" * 5_000 + "}", "[1", b"\xff"])
def test_a_config_that_cannot_be_parsed_is_refused_by_its_path(put, content):
    path = put("blockrank_config.json", content)
    with pytest.raises(ValueError, match=r"blockrank_config\.json (is not|must hold)"):
        BlockRankConfig.load(path)


# Folders and pipes where files are expected


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_folder_where_a_file_is_expected_is_named(tmp_path, name):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text("q\td\t1\n")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "x"}\n')
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError, match=name):
        (read_collection(tmp_path), read_corpus(tmp_path / "corpus.jsonl"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
@pytest.mark.parametrize(("read", "content"), [(read_qrels, "q d 1\n"), (read_run, "q Q0 d 1 2 t\n")])
def test_judgements_and_runs_are_read_from_pipes(tmp_path, read, content):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(content,))
    writer.start()
    found = read(tmp_path / "pipe")
    writer.join()
    assert list(found["q"]) == ["d"]
