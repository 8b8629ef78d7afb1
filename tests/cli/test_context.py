"""What ``blockrank context`` prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import blockrank_rerank
from blockrank_rerank.cli.app import main
from tests.cli.test_cli import refusal

FOLDER = Path(blockrank_rerank.__file__).parent / "default_model"
QUERY = "what treats a heart attack"
ANSWER = "Aspirin treats a heart attack."
SETTINGS = ["--device", "cpu", "--dtype", "float32"]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.txt").write_text(f"Bread is baked. {ANSWER}\nThe moon is far.\n", encoding="utf-8")
    record = {"_id": "d7", "title": "Stone", "text": "Concrete hardens. \u001b[31m </s> 🩺 shown."}
    (tmp_path / "b.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    return [str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")]


def test_the_context_goes_to_stdout_and_what_was_left_out_to_stderr(files, capsys):
    assert main(["context", QUERY, *files, "--max-tokens", "9", *SETTINGS]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{ANSWER}\n"
    assert printed.err.splitlines()[0] == "8 of 9 tokens, from 1 of 3 documents"
    assert printed.err.splitlines()[1] == "left out: budget 4"


def test_json_names_documents_and_reasons(files, capsys):
    assert main(["context", QUERY, *files, "--max-tokens", "9", "--top-k", "2", "--json", *SETTINGS]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["text"], found["tokens"]) == (ANSWER, 8)
    assert 0.5 < found["answerable"] <= 1
    (piece,) = found["pieces"]
    assert (piece["index"], piece["source"].rpartition("/")[2], piece["start"]) == (0, "a.txt:1", 16)
    assert {"budget", "beyond top_k"} == {one["reason"] for one in found["dropped"]}


def test_a_list_that_may_hold_no_answer_is_said_to_be_one(files, capsys):
    assert main(["context", "how tall is the Eiffel tower", *files, *SETTINGS]) == 0
    assert "maybe none of them answers it: " in capsys.readouterr().err
    assert main(["context", QUERY, *files, *SETTINGS]) == 0
    assert "answers it" not in capsys.readouterr().err


def test_templates_name_documents_and_no_control_character_leaves_raw(files, capsys):
    template = "<{id}> {title}: {text}"
    assert main(["context", "what hardens", files[1], "--template", template, *SETTINGS]) == 0
    assert capsys.readouterr().out == "<d7> Stone: Concrete hardens. \\x1b[31m </s> 🩺 shown.\n"


def test_what_is_missing_or_wrong_is_one_line(files, capsys, tmp_path):
    assert "needs QUERY FILE" in refusal(capsys, ["context"], 2)
    assert "--max-tokens" in refusal(capsys, ["context", QUERY, *files, "--max-tokens", "0"], 2)
    assert "template must have {text}" in refusal(capsys, ["context", QUERY, *files, "--template", "x", *SETTINGS], 2)
    missing = ["context", QUERY, *files, "--tokenizer", str(tmp_path), *SETTINGS]
    assert "it has no tokenizer.json" in refusal(capsys, missing, 4)


def test_settings_are_refused_in_one_line_before_a_model_is_loaded(files, capsys, monkeypatch):
    monkeypatch.setattr("blockrank_rerank.cli.context.load_ranker", None)
    refused = refusal(capsys, ["context", QUERY, *files, "--tokenizer", "nope"], 4)
    assert refused.count("There is no folder of that name either.") == 1
    assert "template must have {text}" in refusal(capsys, ["context", QUERY, *files, "--template", "x"], 2)


def test_a_tokenizer_that_pads_and_truncates_counts_what_is_there(files, capsys):
    stored = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    assert stored.padding["length"] == stored.truncation["max_length"] == 128
    chosen = ["--tokenizer", str(FOLDER), "--max-tokens", "9"]
    assert main(["context", QUERY, *files, *chosen, *SETTINGS]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{ANSWER}\n"
    assert printed.err.startswith("8 of 9 tokens")
