"""Paths of settings, overrides and data: expanded and made absolute once, where they enter."""

import json
import os
from pathlib import Path

import pytest

from blockrank_rerank.cli.failures import ARGUMENTS
from blockrank_rerank.cli.finetune import main
from blockrank_rerank.finetune import EvaluationSource, FinetuneSettings, TrainingSource
from blockrank_rerank.finetune.data import read_examples, write_examples
from blockrank_rerank.finetune.mining import mine_negatives
from blockrank_rerank.finetune.validation import validate
from tests.finetune.data_files import write_jsonl

ROW = {"query": "q", "pos": ["p"], "neg": ["n"]}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with data, a model and settings in it; the process is elsewhere."""
    folder = tmp_path / "home"
    (folder / "m").mkdir(parents=True)
    write_jsonl(folder / "d.jsonl", [ROW, ROW | {"query": "r", "query_id": "q9", "pos": ["s"]}])
    (folder / "s.yaml").write_text(
        "output: ~/out\nmodel: ~/m\ndata: ~/d.jsonl\nevaluation: {path: ~/c, run: ~/r.trec}\n"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(folder))
    return folder


def test_the_home_folder_is_meant_in_every_path_of_settings(home):
    found = FinetuneSettings.read("~/s.yaml", {})
    assert (found.output, found.model, found.data[0].path) == (f"{home}/out", f"{home}/m", f"{home}/d.jsonl")
    assert found.evaluation == (EvaluationSource(path=f"{home}/c", run=f"{home}/r.trec"),)


def test_overrides_of_the_command_line_are_paths_too(home, capsys):
    assert main(["train", "~/s.yaml", "output=~/other", "data=[~/d.jsonl, ../x.jsonl]", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f"output: {home}/other\n" in printed
    assert f"path: {home.parent}/x.jsonl" in printed
    assert "~" not in printed


def test_relative_paths_stay_where_the_settings_were_read(home, monkeypatch):
    (home / "model").mkdir()
    monkeypatch.chdir(home)
    found = FinetuneSettings(output="out", model="model", data="d.jsonl", evaluation=["c"])
    monkeypatch.chdir("/")
    assert (found.output, found.model) == (f"{home}/out", f"{home}/model")
    assert (found.data[0].path, found.evaluation[0].path) == (f"{home}/d.jsonl", f"{home}/c")
    assert found.with_changes(steps=3).output == found.output
    assert not list(home.glob("~*"))


def test_ids_of_the_hub_and_the_model_in_the_package_stay(home):
    found = FinetuneSettings(output="out", data=["owner/name", "owner/name:part", {"path": "set", "format": "hub"}])
    assert [source.path for source in found.data] == ["owner/name", "owner/name:part", "set"]
    assert found.model == "default"
    assert FinetuneSettings(output="out", data="d", model="owner/model").model == "owner/model"


def test_a_folder_that_could_be_an_id_is_a_folder(home, monkeypatch):
    monkeypatch.chdir(home.parent)
    assert FinetuneSettings(output="o", data="d", model="home/m").model == f"{home}/m"
    assert FinetuneSettings(output="o", data="home/m").data[0].path == f"{home}/m"


def test_an_unknown_home_folder_is_named(home):
    with pytest.raises(ValueError, match="output names a home folder that is not known, got '~nobody-here/x'"):
        FinetuneSettings(output="~nobody-here/x", data="d")
    assert main(["train", "output=~nobody-here/x", "data=d", "--dry-run"]) == ARGUMENTS


def test_data_is_read_checked_and_mined_from_the_home_folder(home):
    assert len(read_examples("~/d.jsonl")) == len(read_examples(Path("~/d.jsonl"))) == 2
    assert validate("~/d.jsonl").statistics.examples == 2
    assert mine_negatives("~/d.jsonl", method="given").report.queries == 2


def test_commands_know_the_home_folder(home):
    (home / "ids").write_text("q9\n")
    words = ["--method", "given", "--output", "~/mined.jsonl", "--exclude-queries", "~/ids"]
    assert main(["mine-negatives", "~/d.jsonl", *words]) == 0
    [mined] = map(json.loads, (home / "mined.jsonl").read_text().splitlines())
    assert mined["query"] == "q"
    assert os.listdir() == []


def test_sources_stay_where_they_were_made(home, monkeypatch):
    (home / "c").mkdir()
    monkeypatch.chdir(home)
    data, evaluation = TrainingSource(path="d.jsonl"), EvaluationSource(path="./c/", run="r.trec")
    monkeypatch.chdir("/")
    found = FinetuneSettings(output="/o", data=data, evaluation=evaluation)
    assert found.data[0].path == f"{home}/d.jsonl"
    assert found.evaluation == (EvaluationSource(path=f"{home}/c", run=f"{home}/r.trec"),)


class Given:
    """A path of another type than pathlib's."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


@pytest.mark.parametrize("kind", [Path, Given])
def test_settings_take_any_kind_of_path(home, kind):
    found = FinetuneSettings(
        output=kind("~/Ausgabe ü/m"),
        model=kind("~/m"),
        data=[kind("~/d.jsonl"), {"path": kind("../home/d.jsonl")}],
        evaluation={"path": kind("~/c"), "run": kind("~/r.trec")},
    )
    assert (found.output, found.model) == (f"{home}/Ausgabe ü/m", f"{home}/m")
    assert [source.path for source in found.data] == [f"{home}/d.jsonl"] * 2
    assert found.evaluation == (EvaluationSource(path=f"{home}/c", run=f"{home}/r.trec"),)
    assert FinetuneSettings(output=kind("o"), data=kind("~/d.jsonl")).data == found.data[:1]
    assert FinetuneSettings.read(kind("~/s.yaml"), {}).output == f"{home}/out"


@pytest.mark.parametrize("kind", [Path, Given])
def test_data_is_read_checked_mined_and_written_with_any_kind_of_path(home, monkeypatch, kind):
    examples = read_examples(kind("~/d.jsonl"))
    assert validate(kind("../home/d.jsonl")).statistics.examples == 2
    assert mine_negatives(kind("~/d.jsonl"), method="given").report.queries == 2
    for model in ({"teacher": kind("~/absent")}, {"method": "embeddings", "model": kind("../absent")}):
        with pytest.raises(FileNotFoundError, match="absent' does not exist or is not a folder"):
            mine_negatives(kind("~/d.jsonl"), **model)

    def going():
        os.chdir("/")
        yield from examples

    write_examples(kind("neu ü.jsonl"), going())
    assert (home.parent / "elsewhere" / "neu ü.jsonl").exists()
    monkeypatch.chdir(home)
    write_examples(kind("~/w.jsonl"), examples)
    assert (home / "w.jsonl").exists()
