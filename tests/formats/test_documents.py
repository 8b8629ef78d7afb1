"""Documents of text files, JSONL, pipes and standard input."""

import os
import threading
from pathlib import Path

import pytest

from blockrank_rerank.formats import DataError, read_documents
from tests.formats.refusals import refusal


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


@pytest.mark.parametrize("of_type", [str, Path])
def test_one_path_needs_no_list(put, of_type):
    assert [document.text for document in read_documents(of_type(put("a.txt", "one")))] == ["one"]


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
