"""`blockrank export` writes the model that the options name as a folder of its own."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.cli.app import main
from tests.tiny_models import CONFIG, save_model

QUERY = "what treats a heart attack"
DOCUMENTS = ["the liver stores sugar", "aspirin thins the blood", "a blocked artery is a heart attack"]


@pytest.fixture
def folder(tmp_path):
    CONFIG.save(save_model(tmp_path / "given", "llama"))
    return tmp_path / "given"


def test_the_default_model_becomes_a_folder_that_ranks_alike(tmp_path, capsys):
    assert main(["export", str(tmp_path / "mine")]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (f"{tmp_path / 'mine'} holds the model, {size(tmp_path / 'mine') / 1e6:,.1f} MB\n", "")
    rankings = [
        [(found.index, found.raw_score) for found in BlockRankReranker.from_pretrained(model).rank(QUERY, DOCUMENTS)]
        for model in ("default", tmp_path / "mine")
    ]
    assert rankings[0] == rankings[1]


def test_the_options_of_the_model_are_kept(tmp_path, folder, capsys):
    words = ["--model", str(folder), "--max-document-tokens", "9", "--scoring-layer", "1", "--query-free", "--json"]
    assert main(["export", str(tmp_path / "mine"), *words]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path / "mine"), "bytes": size(tmp_path / "mine")}
    config = BlockRankReranker.from_pretrained(tmp_path / "mine").config
    assert (config.max_document_tokens, config.scoring_layer, config.prompt.query_free) == (9, 1, True)


def test_a_config_file_is_kept(tmp_path, folder):
    (tmp_path / "other").mkdir()
    other = replace(CONFIG, reduction="softmax_of_mean", query_offset=99)
    other.save(tmp_path / "other")
    words = ["--model", str(folder), "--config", str(tmp_path / "other/blockrank_config.json")]
    assert main(["export", str(tmp_path / "mine"), *words]) == 0
    assert BlockRankReranker.from_pretrained(tmp_path / "mine").config == other


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        ("given", 6, "has something in it; name another one, or empty it"),
        ("given/config.json", 4, "expected a folder for the model, got the file"),
    ],
)
def test_what_is_there_is_not_written_over(tmp_path, folder, capsys, target, code, message):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["export", str(tmp_path / target), "--model", str(folder)]) == code
    out, err = capsys.readouterr()
    assert not out
    assert message in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_model_that_is_not_there_leaves_nothing(tmp_path, capsys):
    assert main(["export", str(tmp_path / "mine"), "--model", str(tmp_path / "nowhere")]) == 4
    assert "does not exist" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["--store", "--cache", "--prune", "--max-memory", "--long-queries"])
def test_options_that_no_folder_keeps_are_refused(tmp_path, word, capsys):
    assert main(["export", str(tmp_path / "mine"), word, "x"]) == 2
    assert word in capsys.readouterr().err


def size(folder):
    return sum(path.stat().st_size for path in folder.iterdir())
