"""`blockrank report` writes a page and its numbers, and refuses what it cannot measure before it begins."""

from __future__ import annotations

import json
import sys

import pytest

from blockrank_rerank.cli.app import main
from blockrank_rerank.evaluation.report import contestants
from tests.evaluation.report.collection import write_collection, write_model

for module in ("ir_measures", "bm25s", "matplotlib", "jinja2"):
    pytest.importorskip(module)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(contestants, "BASE_PACKAGE", "no_such_package")
    return write_collection(tmp_path / "tiny")


def refusal(capsys, arguments, code):
    assert main(["report", *arguments]) == code
    out, err = capsys.readouterr()
    assert not out
    line = err.strip().splitlines()
    assert len(line) == 1
    return line[0].removeprefix("blockrank: error: ")


def test_a_page_and_its_numbers_are_written_and_the_table_is_printed(folder, tmp_path, capsys):
    model = write_model(tmp_path / "model")
    words = ["report", "tiny", "--queries", "3", "--depth", "5", "--output", "out.html", "--model", str(model)]
    assert main([*words, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    numbers = json.loads((tmp_path / "out.json").read_text())
    page = (tmp_path / "out.html").read_text()
    assert numbers["command"] == f"blockrank {' '.join(words)} --device cpu"
    assert (numbers["collection"]["queries"], numbers["collection"]["depth"]) == (3, 5)
    assert [row["name"] for row in numbers["rows"]] == ["BM25", "BlockRank model"]
    assert numbers["notes"] == [contestants.NO_BASE]
    assert contestants.NO_BASE in page
    assert "out.html is the page, and out.json has its numbers" in printed
    assert f"{numbers['rows'][1]['measures']['nDCG@10']:.4f}" in printed


@pytest.mark.parametrize(
    ("words", "code", "found"),
    [
        (["nowhere"], 4, "no such folder: nowhere"),
        (["tiny/corpus.jsonl"], 4, "expected a BEIR folder, with queries.jsonl and qrels/, got the file"),
        (["tiny", "--split", "dev"], 4, "splits available: test"),
        (["tiny", "--queries", "0"], 2, "--queries"),
        (["tiny", "--depth", "0"], 2, "--depth"),
        (["tiny", "--output", "page.txt"], 2, "--output must be a file that ends in .html, got page.txt"),
        (["tiny", "--output", "absent/page.html"], 4, "create it first"),
        (["tiny", "--run", "tiny/report.json", "--output", "tiny/report.html"], 2, "would replace"),
        (["tiny", "--against", "./nowhere"], 4, "model folder './nowhere' does not exist"),
        (["tiny", "--against", "tiny"], 2, "it has no score of its own"),
        (["tiny", "--against", "default"], 2, "expected every model once, got 'BlockRank default' twice"),
        (["tiny", "--prune", "2:50"], 2, "--prune"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(folder, capsys, words, code, found):
    (folder / "report.json").write_text("")
    assert found in refusal(capsys, words, code)
    assert not [*folder.parent.glob("report.*")]


@pytest.mark.parametrize(("module", "extra"), [("ir_measures", "eval"), ("matplotlib", "report"), ("jinja2", "report")])
def test_a_missing_extra_is_named_before_anything_is_read(folder, capsys, monkeypatch, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    assert refusal(capsys, ["nowhere"], 3).endswith(f"in a clone of blockrank-rerank: pip install '.[{extra}]'")
