"""``blockrank search`` prints what searching the store gives."""

from __future__ import annotations

import json

import pytest

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.cli.app import main
from tests.states.test_prepared import save_ranker
from tests.tiny_models import BERT_CONFIG

DOCUMENTS = [
    {"id": "liver", "title": "a\x1b liver", "text": "has sugar"},
    {"id": 7, "text": "aspirin"},
    "the blood",
]
QUERY = "who stores sugar"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_ranker(tmp_path_factory.mktemp("bert"), "bert", BERT_CONFIG)


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    BlockRankReranker.from_pretrained(model, dtype="float32").prepare_store(folder, DOCUMENTS)
    return folder


@pytest.fixture
def search(model, store, capsys, monkeypatch):
    """Runs the command on the store; gives its exit code, what it printed and what it noted."""

    monkeypatch.delenv("COLUMNS", raising=False)  # as in a pipe

    def run(*words, folder=store):
        code = main(["search", *words, "--store", str(folder), "--model", str(model), "--dtype", "float32"])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("flags", [[], ["--approximate"]])
def test_json_has_what_the_search_gives_with_ids_titles_and_texts(search, model, store, flags):
    found = BlockRankReranker.from_pretrained(model, dtype="float32").search(store, QUERY, 2)
    code, out, _ = search(QUERY, "--json", "--top-k", "2", *flags)
    assert code == 0
    records = json.loads(out)
    assert [(r["rank"], r["id"], r["index"], r["score"], r["title"], r["text"]) for r in records] == [
        (rank, d.id, d.index, d.score, d.document.title, d.text) for rank, d in enumerate(found, start=1)
    ]
    assert {record["source"] for record in records} == {str(store)}


def test_lines_name_documents_by_id_and_say_how_many_there_are(search):
    code, out, noted = search(QUERY, "-k", "2")
    assert code == 0
    assert len(out.splitlines()) == 3
    assert "\x1b" not in out
    assert "2 of 3 documents shown" in noted


def test_what_cannot_be_searched_is_one_line_and_a_code(search, tmp_path):
    code, _, noted = search(QUERY, folder=tmp_path / "absent")
    assert (code, noted.count("\n")) == (4, 1)
    assert "holds no prepared documents: make them with 'blockrank prepare'" in noted
    code, _, noted = search(" ")
    assert (code, noted) == (2, "blockrank: error: query must not be empty\n")
    assert search(QUERY, "-k", "0")[0] == 2
