"""Documents as people have them: other names of the text, folders, Markdown, compressed files."""

import gzip
import os

import pytest

from blockrank_rerank.formats import DataError, read_corpus, read_documents
from blockrank_rerank.formats.text_names import TEXT_NAMES
from tests.formats.refusals import refusal

MARKDOWN = """# Fleas

Fleas live
for months.

They bite.

## Concrete

```sh
# not a heading

mix
```
"""


def texts(path, **how):
    return [document.text for document in read_documents([path], **how)]


# The names of the text


@pytest.mark.parametrize("name", [*TEXT_NAMES, "pageContent", "Content"])
def test_the_text_is_read_under_the_names_that_other_tools_give_it(put, name):
    assert texts(put("a.jsonl", f'{{"{name}": "x", "year": 1}}\n')) == ["x"]
    assert texts(put("a.csv", f"id,{name}\n1,x\n")) == ["x"]
    assert texts(put("a.tsv", f"{name}\tid\nx\t1\n")) == ["x"]
    assert texts(put("a.txt", f"id,{name}\n1,x\n")) == ["x"]
    [document] = read_documents([put("b.jsonl", f'{{"{name}": "x", "year": 1}}\n')])
    assert document.metadata == {"year": 1}


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", '{"passage": "x", "body": "y"}\n'), ("a.csv", "passage,body\nx,y\n")]
)
def test_of_two_names_none_is_guessed_and_the_advice_helps(put, name, content):
    path = put(name, content)
    found = refusal(lambda p: read_documents([p]), path)
    assert found == f'{name}:1: "passage", "body" may each be the text; choose one: --column text="passage"'
    assert texts(path, columns={"text": "body"}) == ["y"]
    [document] = read_documents([path], columns={"text": "passage"})
    assert (document.text, document.metadata) == ("x", {"body": "y"})


def test_a_field_named_text_is_the_text_whatever_else_there_is(put):
    [document] = read_documents([put("a.jsonl", '{"text": "x", "body": "y"}\n')])
    assert (document.text, document.metadata) == ("x", {"body": "y"})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"abstract": "x", "heading": "T", "pmid": 7, "text": "y"}\n'),
        ("a.csv", "pmid,abstract,heading,text\n7,x,T,y\n"),
    ],
)
def test_mapped_columns_are_read_and_nothing_is_lost(put, name, content):
    [document] = read_documents([put(name, content)], columns={"text": "abstract", "title": "heading", "id": "pmid"})
    assert (document.text, document.title, document.id) == ("x", "T", "7")
    assert document.metadata == {"text": "y"}


def test_a_column_that_a_user_names_makes_a_table_of_a_file_of_any_name(put):
    path = put("a.txt", "key,abstract\n1,fleas live\n")
    assert [found.text for found in read_documents(path, columns={"text": "abstract"})] == ["fleas live"]
    assert len(read_documents(path)) == 2


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", '{"abstract": "x"}\n'), ("a.csv", "id,abstract\n1,x\n")])
def test_a_mapped_column_that_is_not_there_is_named(put, name, content):
    for columns in ({"text": "summary"}, {"text": "abstract", "title": "summary"}):
        with pytest.raises(
            DataError, match=r':1: no "summary", which --column t\w+=summary names; found: .*"abstract"'
        ):
            read_documents([put(name, content)], columns=columns)


def test_only_what_documents_have_can_be_mapped(put):
    with pytest.raises(ValueError, match="--column may map text, title, id, got pos"):
        read_documents([put("a.txt", "x")], columns={"pos": "x"})


@pytest.mark.parametrize(("name", "content"), [("a.txt", "x y"), ("a.jsonl", '"x y"'), ("a.md", "# x\n\ny")])
def test_columns_of_text_without_any_are_refused_unless_other_files_have_them(put, name, content):
    plain, named = put(name, content), put("named.jsonl", '{"abstract": "z"}')
    with pytest.raises(ValueError, match=rf"--column text=abstract must come with JSON objects .* got .*{name}, whose"):
        read_documents(plain, columns={"text": "abstract"})
    assert read_documents([plain, named], columns={"text": "abstract"})[-1].text == "z"


def test_text_between_tabs_may_begin_with_a_quotation_mark(put):
    """As in files of TREC and MS MARCO, which quote nothing."""
    rows = ['"Hello" he said', '"It began', "and went on", 'to an "end"', '"all of it"', 'so it "ended"', '"', "x"]
    path = put("a.tsv", "id\ttext\n" + "".join(f"{n}\t{text}\n" for n, text in enumerate(rows, start=2)))
    found = read_documents([path])
    assert [document.text for document in found] == [*rows[:4], "all of it", *rows[5:]]
    assert [document.source for document in found] == [f"{path}:{document.id}" for document in found]


def test_a_quoted_cell_between_tabs_may_have_several_lines(put):
    content = 'text\tid\n"one\n\nof two"\t1\nplain\t2\n'
    assert texts(put("first.tsv", content)) == ["one\n\nof two", "plain"]
    content = 'id\ttext\n1\t"one\n\nof ""two"""\n2\tplain\n'
    assert texts(put("last.tsv", content)) == ['one\n\nof "two"', "plain"]


def test_a_quoted_cell_that_never_ends_is_a_fault(put):
    path = put("a.tsv", 'id\ttext\n1\t"one\nof two\n2\tplain\n')
    assert "a.tsv:3: not a row of a table" in refusal(lambda p: read_documents([p]), path)


def test_fields_without_a_known_name_are_listed_with_what_to_write(put):
    found = refusal(lambda p: read_documents([p]), put("a.jsonl", '{"blurb": "x", "year": 1}\n'))
    assert found.endswith('found: "blurb", "year"; name the one that holds the text: --column text=YOURS')


def test_a_cell_without_text_is_an_empty_document_under_any_name(put):
    assert texts(put("a.csv", "id,content\n1,x\n2,\n")) == ["x", ""]


# Units of text


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (
            None,
            ["# Fleas\n\nFleas live\nfor months.", "They bite.", "## Concrete\n\n```sh\n# not a heading\n\nmix\n```"],
        ),
        (
            "heading",
            ["# Fleas\n\nFleas live\nfor months.\n\nThey bite.", "## Concrete\n\n```sh\n# not a heading\n\nmix\n```"],
        ),
        ("file", [MARKDOWN.strip()]),
        ("line", [line for line in MARKDOWN.splitlines() if line]),
    ],
)
def test_markdown_is_read_by_paragraphs_headings_lines_or_whole(put, unit, expected):
    assert texts(put("a.md", MARKDOWN), unit=unit) == expected


def test_units_say_where_they_begin(put):
    path = put("a.txt", "\nx\ny\n\n\nz\n")
    sources = {unit: [d.source for d in read_documents([path], unit=unit)] for unit in ("line", "paragraph", "file")}
    assert sources["line"] == [f"{path}:2", f"{path}:3", f"{path}:6"]
    assert sources["paragraph"] == [f"{path}:2", f"{path}:6"]
    assert sources["file"] == [str(path)]
    assert texts(path, unit="file") == ["x\ny\n\n\nz"]


def test_a_hash_without_a_space_is_no_heading(put):
    assert texts(put("a.txt", "#fleas\nbite\n# Concrete\n"), unit="heading") == ["#fleas\nbite", "# Concrete"]


def test_json_and_tables_are_read_the_same_whatever_the_unit(put):
    assert texts(put("a.jsonl", '"x"\n"y"\n'), unit="file") == ["x", "y"]
    assert texts(put("a.csv", "id,text\n1,x\n2,y\n"), unit="paragraph") == ["x", "y"]


def test_standard_input_has_units_too(stdin):
    stdin("x\ny\n\nz\n")
    from blockrank_rerank.formats.documents import STDIN

    assert texts(STDIN, unit="paragraph") == ["x\ny", "z"]


# Folders


def test_a_folder_is_read_with_what_is_inside_it_one_document_a_text(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "b.txt").write_text("first\n\nsecond\n")
    (tmp_path / "a.jsonl").write_text('"x"\n"y"\n')
    (tmp_path / "deep" / "c.md").write_text(MARKDOWN)
    (tmp_path / ".hidden" / "d.txt").write_text("hidden")
    documents = read_documents([tmp_path])
    assert [document.text for document in documents] == ["x", "y", "first\n\nsecond", MARKDOWN.strip()]
    assert documents[2].source == os.fspath(tmp_path / "b.txt")
    assert texts(tmp_path, unit="line")[2:4] == ["first", "second"]


def test_files_of_a_folder_that_are_left_out_are_told(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.pdf").write_bytes(b"%PDF\xff")
    with pytest.warns(UserWarning, match=r"1 files in .* are of no kind that is read, such as b\.pdf"):
        assert texts(tmp_path) == ["x"]


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_of_a_beir_folder_the_corpus_alone_is_read(tmp_path, name):
    (tmp_path / "qrels").mkdir()
    corpus = b'{"_id": "d1", "title": "", "text": "concrete sets"}\n'
    (tmp_path / name).write_bytes(gzip.compress(corpus) if name.endswith("gz") else corpus)
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "what sets"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    assert texts(tmp_path) == ["concrete sets"]


def test_a_folder_without_documents_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of documents in the folder .*: expected \.csv, "):
        read_documents([tmp_path])


# Compressed files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt.gz", "x\ny\n"),
        ("a.JSONL.GZ", '{"content": "x"}\n{"content": "y"}\n'),
        ("a.tsv.gz", "id\ttext\n1\tx\n2\ty\n"),
        ("a.md.gz", "x\n\ny\n"),
    ],
)
def test_compressed_files_are_read_as_what_they_are(put, tmp_path, name, content):
    path = put(name, gzip.compress(content.encode()))
    assert texts(path) == ["x", "y"]
    assert read_documents([path])[0].source.startswith(f"{path}:")
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / name)
    assert "".join(texts(tmp_path / "folder")).replace("\n", "") == "xy"


def test_a_compressed_corpus_is_read(put):
    assert [*read_corpus(put("corpus.jsonl.gz", gzip.compress(b'{"_id": "d", "text": "x"}\n')))] == ["d"]


# Named, as a compressed text has the second in it: processes that share the tests out must call them the same.
@pytest.mark.parametrize(
    "content",
    [b"plain text", gzip.compress(b"x\n" * 5000)[:-20], gzip.compress(b"x")[:12]],
    ids=["plain", "cut at its end", "cut at its start"],
)
def test_a_file_that_is_no_whole_gzip_file_is_refused(put, content):
    found = refusal(lambda p: read_documents([p]), put("a.txt.gz", content))
    assert found.startswith("a.txt.gz: expected a whole gzip file, as the name says: ")


def test_a_compressed_file_without_the_name_says_what_to_do(put):
    found = refusal(lambda p: read_documents([p]), put("a.txt", gzip.compress(b"x")))
    assert found == "a.txt: this is a gzip file; decompress it first, for instance with gunzip"
