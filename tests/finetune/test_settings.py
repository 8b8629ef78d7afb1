"""Settings that are read, refused, and written again."""

import math
import re
from pathlib import Path

import pytest

from blockrank_rerank.cli.failures import ARGUMENTS
from blockrank_rerank.cli.finetune import main
from blockrank_rerank.finetune import EvaluationSource, FinetuneSettings, TrainingSource, TuneSettings


def settings(**changes):
    return FinetuneSettings(**{"output": "out", "data": "train.jsonl", **changes})


BAD_SOURCES = [
    ({"split": "train"}, " needs a path, which says where the collection is, got {'split': 'train'}"),
    ({"path": 5}, ": path must be a text that is not empty, got 5"),
    ({"path": ""}, ": path must be a text that is not empty, got ''"),
    ({"path": "x", "split": 1}, ": split must be a text that is not empty, got 1"),
    ({"path": "x", "wait": 1, 5: 2}, ": unknown settings 5, wait; "),
    (5, " must be a path or a mapping with a path, got 5"),
]
BAD_DATA = [
    ({"weight": "heavy"}, "weight must be float, got 'heavy'"),
    ({"weight": True}, "weight must be float, got True"),
    ({"weight": -1}, "weight must be 0 or more, got -1"),
    ({"weight": math.nan}, "weight must be finite, got nan"),
    ({"weight": "inf"}, "weight must be finite, got inf"),
    ({"limit": "some"}, "limit must be int, got 'some'"),
    ({"limit": 0}, "limit must be positive, got 0"),
    ({"limit": -3}, "limit must be positive, got -3"),
    ({"columns": "pos"}, "columns must be a mapping such as {pos: answer} from known columns to the data's, got 'pos'"),
    ({"columns": {"pos": 5}}, "columns must be a mapping such as {pos: answer}"),
    ({"format": "csv"}, "format must be one of auto, pos-neg, blockrank, beir, hub, got csv"),
    ({"negatives": "hard"}, "negatives must be bm25, random or none, got 'hard'"),
]
BAD_EVALUATION = [
    ({"queries": 0}, "queries must be positive, got 0"),
    ({"queries": 1.5}, "queries must be int, got 1.5"),
    ({"depth": "x"}, "depth must be int, got 'x'"),
    ({"depth": 0}, "depth must be positive, got 0"),
    ({"run": 5}, "run must be a text that is not empty, got 5"),
]
BAD_SETTINGS = [
    ({"held_out": -1}, "held_out must be 0 or more, got -1"),
    ({"data": 5}, "data must be a path, a mapping with a path, or a list of these, got 5"),
    ({"evaluation": None}, "evaluation must be a path, a mapping with a path, or a list of these, got None"),
    ({"output": 5}, "output must be a text that is not empty, got 5"),
    ({"output": ""}, "output must be a text that is not empty, got ''"),
    ({"output": "."}, "output must be a folder with a name of its own, got ."),
    ({"output": ".."}, "output must be a folder with a name of its own, got .."),
    ({"output": "/"}, "output must be a folder with a name of its own, got /"),
    ({"model": 3}, "model must be a text that is not empty, got 3"),
    ({"scoring_layer": "x"}, "scoring_layer must be int, got 'x'"),
    ({"device": "gpu"}, "device must be cpu, cuda or auto, got 'gpu'"),
    ({"device": "mps"}, "device must be cpu, cuda or auto, got 'mps'"),
    ({"device": 0}, "device must be a text that is not empty, got 0"),
    ({"seed": "x"}, "seed must be int, got 'x'"),
    ({"seed": -1}, "seed must be in 0..4294967295, got -1"),
    ({"steps": 10**20}, "steps must be below 2147483648"),
    ({"evaluate_every": 5}, "evaluate_every needs evaluation, the collections to measure on"),
]
FLOATS = ("learning_rate", "head_learning_rate", "weight_decay", "max_grad_norm", "temperature", "contrastive_weight")


def refusal(**changes) -> str:
    with pytest.raises(ValueError, match=" ") as error:
        settings(**changes)
    return str(error.value)


@pytest.mark.parametrize("name", ["data", "evaluation"])
@pytest.mark.parametrize(("source", "message"), BAD_SOURCES, ids=[message for _, message in BAD_SOURCES])
def test_sources_that_name_no_collection_are_refused(name, source, message):
    assert refusal(**{name: ["good", source]}).startswith(f"{name}[1]{message}")


@pytest.mark.parametrize(("change", "message"), BAD_DATA, ids=[message for _, message in BAD_DATA])
def test_bad_values_of_a_training_source_are_refused_by_name(change, message):
    assert refusal(data={"path": "x", **change}).startswith(f"data[0]: {message}")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        TrainingSource(path="x", **change)


@pytest.mark.parametrize(("change", "message"), BAD_EVALUATION, ids=[message for _, message in BAD_EVALUATION])
def test_bad_values_of_an_evaluation_source_are_refused_by_name(change, message):
    assert refusal(evaluation={"path": "x", **change}) == f"evaluation[0]: {message}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        EvaluationSource(path="x", **change)


@pytest.mark.parametrize(("change", "message"), BAD_SETTINGS, ids=[message for _, message in BAD_SETTINGS])
def test_bad_values_are_refused_by_name(change, message):
    assert refusal(**change).startswith(message)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [math.inf, math.nan, "inf", "1e999"])
def test_numbers_that_are_not_finite_are_refused(name, value):
    assert refusal(**{name: value}) == f"{name} must be finite, got {float(value)}"


def test_settings_of_a_machine_with_a_gpu_are_read_without_one():
    named = (None, "auto", "cpu", "cuda")
    assert [settings(device=device).device for device in named] == list(named)


def test_either_all_collections_have_a_weight_or_none_has():
    assert refusal(data=[{"path": "a", "weight": 2}, "b"]) == (
        "data[1] needs a weight, since others have one, got 'b' without; give every collection a weight, or none"
    )
    assert refusal(data=[{"path": "a", "weight": 0}]).startswith("data needs a collection of weight above 0")
    weighted = settings(data=[{"path": "a", "weight": "1e-1"}, {"path": "b", "weight": 0}])
    assert [source.weight for source in weighted.data] == [0.1, 0]


def test_collections_of_evaluation_differ_in_path_or_split():
    assert refusal(evaluation=["e", {"path": "e/", "depth": 9}]) == (
        "evaluation[1] must differ from evaluation[0] in path or split, got 'e' with split 'dev' in both; remove one"
    )
    assert len(settings(evaluation=["e", {"path": "e", "split": "test"}]).evaluation) == 2


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_bytes(b"output: \xff\n")
    expected = f"^{re.escape(str(path))} must be UTF-8 text, got byte 0xff at position 9; convert the file to UTF-8$"
    with pytest.raises(ValueError, match=expected) as error:
        FinetuneSettings.read(path, {})
    assert not isinstance(error.value, UnicodeError)  # whose exit code is that of a failure at run time


def test_keys_that_are_no_text_are_refused_as_unknown(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("output: o\ndata: d\n5: x\nfoo: 1\n")
    with pytest.raises(ValueError, match=r"settings.yaml: unknown settings 5, foo; known are model, output"):
        FinetuneSettings.read(path, {})


def test_a_mistyped_setting_is_refused_with_the_one_that_was_meant(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("output: o\ndata: d\nlearning_rat: 1\n")
    expected = "unknown settings learning_rat; did you mean learning_rate"
    with pytest.raises(ValueError, match=expected):
        FinetuneSettings.read(path, {})


def test_sources_survive_a_round_trip_through_yaml(tmp_path):
    sources = [{"path": "a", "weight": 0.5, "columns": {"pos": "answer"}, "limit": 3}, {"path": "b", "weight": 1}]
    first = settings(data=sources, evaluation=[{"path": "e", "queries": 5}], device="cpu")
    (tmp_path / "s.yaml").write_text(first.to_yaml())
    assert FinetuneSettings.read(tmp_path / "s.yaml", {}) == first
    assert first.with_changes(steps=5).data == first.data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output: o\ndata: d\nseed: 7\nseed: 8\n", "settings.yaml: 'seed' is given twice; keep one"),
        ("output: o\ndata: [{path: a, path: b}]\n", "settings.yaml: 'path' is given twice; keep one"),
        ("output: [\n", "settings.yaml is not valid YAML: "),
    ],
)
def test_a_file_whose_keys_come_twice_or_that_is_no_yaml_is_refused(text, message, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        FinetuneSettings.read(path, {})


def test_a_setting_that_comes_twice_on_the_command_line_is_refused(capsys):
    assert main(["train", "output=o", "data=a.jsonl", "data=b.jsonl", "--dry-run"]) == ARGUMENTS
    assert "data is given twice; several values are a list: data=[a,b]" in capsys.readouterr().err


ROOT = Path(__file__).parents[2]
TRAININGS = [
    path
    for folder in ("recipes", "examples")
    for path in sorted((ROOT / folder).rglob("*.yaml"))
    if "\noutput:" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.stem)
def test_settings_that_ship_can_be_read(path):
    kind = TuneSettings if path.stem.startswith("tune") else FinetuneSettings
    kind.read(path, {})
