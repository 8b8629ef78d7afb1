"""Numbers, files and nesting that nobody means are refused before anything is made of them."""

import os
import re

import pytest

from blockrank_rerank.cli.failures import ARGUMENTS
from blockrank_rerank.cli.finetune import main
from blockrank_rerank.finetune import EvaluationSource, FinetuneSettings
from blockrank_rerank.finetune.data import read_examples
from blockrank_rerank.finetune.settings import LARGEST
from blockrank_rerank.finetune.settings_file import LARGEST_FILE, parse_yaml, read_yaml
from blockrank_rerank.formats import DataError


@pytest.mark.parametrize("name", LARGEST)
@pytest.mark.parametrize("number", [10**12, 10**5000], ids=["large", "larger"])
def test_numbers_beyond_belief_are_refused_by_name(name, number):
    with pytest.raises(ValueError, match=rf"{name} must be at most [\d,]+, got "):
        FinetuneSettings(output="o", data="d", evaluation=["e"], **{name: number})


@pytest.mark.parametrize("name", ["depth", "queries"])
def test_numbers_of_an_evaluation_are_believed_up_to_a_limit(name):
    with pytest.raises(ValueError, match=f"{name} must be at most"):
        EvaluationSource(path="e", **{name: 10**12})


def test_an_integer_that_is_no_float_is_not_finite():
    with pytest.raises(ValueError, match="learning_rate must be finite, got inf"):
        FinetuneSettings(output="o", data="d", learning_rate=10**400)


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "- " * 5000, "steps: " + "[" * 3000 + "]" * 3000])
def test_deeply_nested_yaml_is_named(tmp_path, text):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"{path} is (nested too deeply|not valid YAML)"):
        read_yaml(path)


@pytest.mark.parametrize("text", ["2020-99-99", "!!int x", "!!map [1]", "{[1]: 2}", "!!python/object:os.system {}"])
def test_values_that_yaml_cannot_make_are_named(text):
    with pytest.raises(ValueError, match=f"^{re.escape('data=x')} is not valid YAML"):
        parse_yaml(text, "data=x")


@pytest.mark.parametrize(("text", "found"), [("null", "nothing"), ("", "nothing"), ("- a", "list"), ("7", "int")])
def test_a_file_that_holds_no_settings_says_what_it_holds(tmp_path, text, found):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"must hold settings as key: value, got {found}"):
        read_yaml(tmp_path / "s.yaml")


@pytest.mark.parametrize("name", ["steps", "data", "output", "model", "learning_rate"])
def test_a_setting_that_is_null_is_named(name, capsys):
    values = {"output": "o", "data": "d"} | {name: "null"}
    assert main(["train", *(f"{key}={value}" for key, value in values.items()), "--dry-run"]) == ARGUMENTS
    assert f"error: {name} must be" in capsys.readouterr().err


def test_what_aliases_multiply_is_shown_in_short():
    text = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(ValueError, match="output must be a text") as error:
        FinetuneSettings(output=parse_yaml(text, "s")["i"], data="d")
    assert len(str(error.value)) < 20_000


def test_a_file_too_large_for_settings_is_not_parsed(tmp_path):
    (tmp_path / "s.yaml").write_text("#" * (LARGEST_FILE + 1))
    with pytest.raises(ValueError, match="which is more than settings need"):
        read_yaml(tmp_path / "s.yaml")


def test_folders_and_pipes_are_no_files_of_settings_or_data(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError, match="expected a file of settings, got the folder"):
        read_yaml(tmp_path)
    with pytest.raises(DataError, match="expected a file of settings, got a pipe; write its content to a file"):
        read_yaml(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: expected a file of lines, got a pipe"):
        read_examples(tmp_path / "pipe")
    with pytest.raises(DataError, match="got a device"):
        read_examples("/dev/zero")
