"""Advice in messages can be followed: commands, options and extras exist, and doing as told works."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import tomllib
import typer

from blockrank_rerank import BlockRankConfig, BlockRankReranker
from blockrank_rerank.cli import app, doctor, finetune
from blockrank_rerank.errors import install_line
from tests.tiny_models import CONFIG, save_model

ROOT = Path(__file__).parents[1]
FOLDERS = ("blockrank_rerank", "kernels", "integrations")
READ = (*FOLDERS, "docs", "examples", "benchmarks", "recipes", "tests", "dev")
OTHERS_OPTIONS = {"--nproc_per_node"}
"""Of torchrun, in texts of ours."""

FROM_INDEX = re.compile(r"pip install [^\n`]*\bblockrank[-_]rerank\b|blockrank-rerank\[[\w,-]+\]")
IN_CLONE = re.compile(r"pip install (?:-e )?'\.\[([\w, -]+)\]'")
CALLED = re.compile(r"""install_line\(["']([\w-]+)["']\)""")

PROSE = {"needs"}
"""Words that follow the name of a program and are no command."""

QUERY, DOCUMENTS = "heart attack", ["the liver stores sugar", "heart attack", "aspirin"]


def texts():
    """Every text in the code, with those that f-strings consist of joined."""
    for path in [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.name, node.value


def commands(module):
    return typer.main.get_command(module.app).commands


def test_commands_that_texts_name_exist():
    known = {"blockrank": {*commands(app)}, "blockrank-finetune": {*commands(finetune)}}
    named = set()
    for name, text in texts():
        for program, command in re.findall(r"(?<![\w-])(blockrank(?:-finetune)?) ([a-z][a-z-]+)", text):
            assert command in known[program] | PROSE, (name, text)
            named.add(command)
    assert {"init", "mine-negatives", "prepare", "rerank", "train"} <= named


def test_every_command_is_in_the_table_of_commands():
    table = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    for program, module in (("blockrank", app), ("blockrank-finetune", finetune)):
        for command in commands(module):
            assert re.search(rf"^\| `{program} {command}\b", table, re.MULTILINE), command


def test_options_that_texts_name_exist():
    all_commands = [*commands(app).values(), *commands(finetune).values()]
    known = {flag for command in all_commands for parameter in command.params for flag in parameter.opts}
    known |= {"--help", "--debug", "--version"} | OTHERS_OPTIONS
    for name, text in texts():
        unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", text)) - known
        assert not unknown, (name, text)


def whole_tree():
    """Every file of code, documentation and settings that people read, but this one."""
    kinds = ("*.py", "*.md", "*.yaml", "*.yml", "*.ipynb")
    within = [path for folder in READ for kind in kinds for path in sorted((ROOT / folder).rglob(kind))]
    return [path for path in (*ROOT.glob("*.md"), *within) if path != Path(__file__)]


def test_nothing_tells_to_install_from_an_index_that_does_not_have_the_package():
    files = whole_tree()
    assert {"README.md", "langchain.md", "same_order.py", "ranker.py", "finetuning.md"} <= {path.name for path in files}
    for path in files:
        found = FROM_INDEX.search(path.read_text(encoding="utf-8"))
        assert not found, (path, found[0])


def test_extras_that_texts_name_exist():
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    words = {extra for path in whole_tree() for extra in IN_CLONE.findall(path.read_text(encoding="utf-8"))}
    named = {extra.strip() for word in words for extra in word.split(",")}
    called = {extra for path in whole_tree() for extra in CALLED.findall(path.read_text(encoding="utf-8"))}
    assert {"eval", "train", "langchain", "test"} <= named
    assert {"eval", "train", "langchain", "llama-index", "haystack", "rerankers"} <= called
    assert named | called <= extras.keys()


def test_the_doctor_looks_for_a_package_of_every_extra():
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    known = {package.name for package in doctor.OPTIONAL}
    for extra in extras.keys() - {"all", "test", "test-serve", "docs", "dev"}:
        assert known & {re.match(r"[\w-]+", requirement)[0] for requirement in extras[extra]}, extra


def test_the_line_that_installs_an_extra_is_one_for_a_shell_in_a_clone():
    assert install_line("eval") == "in a clone of blockrank-rerank: pip install '.[eval]'"
    assert install_line() == "in a clone of blockrank-rerank: pip install ."


# A prompt that repeats the query


@pytest.fixture
def repeating(tmp_path):
    folder = save_model(tmp_path / "llama", "llama")
    CONFIG.save(folder)
    (tmp_path / "texts.txt").write_text("\n".join(DOCUMENTS) + "\n")
    return folder


@pytest.mark.parametrize("keeping", [{"cache": "1MB"}, {"store": "states"}])
def test_documents_are_kept_by_a_model_whose_prompt_is_what_the_message_says(repeating, tmp_path, keeping, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="cache and store need documents") as error:
        BlockRankReranker.from_pretrained(repeating, **keeping)
    expression = re.search(r"pass config=(.*?) \(--query-free\)", str(error.value))[1]
    config = eval(expression, {"BlockRankReranker": BlockRankReranker, "model": repeating})
    BlockRankReranker.from_pretrained(repeating, config=config).prepare_store("states", DOCUMENTS)
    assert len(BlockRankReranker.from_pretrained(repeating, config=config, **keeping).rank(QUERY, DOCUMENTS)) == 3
    config.save(repeating)
    assert len(BlockRankReranker.from_pretrained(repeating, **keeping).rank(QUERY, DOCUMENTS)) == 3


def test_the_command_line_prepares_and_keeps_with_the_option_that_messages_name(repeating, tmp_path, capsys):
    model, file, store = ("--model", str(repeating)), str(tmp_path / "texts.txt"), str(tmp_path / "states")
    for arguments in (["prepare", file, store, *model], ["rerank", QUERY, file, "--cache", "1MB", *model]):
        assert app.main(arguments) == 2
        assert "(--query-free)" in "".join(capsys.readouterr().err.split())
        assert app.main([*arguments, "--query-free"]) == 0
    assert app.main(["rerank", QUERY, file, "--store", store, "--query-free", *model]) == 0


# A decoder with few positions


def test_a_decoder_with_few_positions_ranks_with_the_config_that_the_message_writes_down(tmp_path, capsys):
    folder = save_model(tmp_path / "llama", "llama", max_position_embeddings=512)
    (tmp_path / "texts.txt").write_text("\n".join(DOCUMENTS) + "\n")
    with (
        pytest.warns(UserWarning, match=r"has no blockrank_config\.json"),
        pytest.raises(ValueError, match="query_offset must be below the model's limit of 512") as error,
    ):
        BlockRankReranker.from_pretrained(folder).rank(QUERY, DOCUMENTS)
    expression = re.search(r"BlockRankConfig\(.*?\)", str(error.value))[0]
    config = eval(expression, {"BlockRankConfig": BlockRankConfig})
    assert len(BlockRankReranker.from_pretrained(folder, config=config).rank(QUERY, DOCUMENTS)) == 3
    config.save(tmp_path)
    file = str(tmp_path / "texts.txt")
    command = ["rerank", QUERY, file, "--model", str(folder), "--config", str(tmp_path / "blockrank_config.json")]
    assert app.main(command) == 0
    config.save(folder)
    assert len(BlockRankReranker.from_pretrained(folder).rank(QUERY, DOCUMENTS)) == 3
    capsys.readouterr()


def test_settings_that_were_written_by_hand_are_read_with_the_version_that_the_message_asks_for(tmp_path):
    path = tmp_path / "blockrank_config.json"
    path.write_text('{"scoring_layer": 2}')
    with pytest.raises(ValueError, match=r'add "version": 1$') as error:
        BlockRankConfig.load(path)
    path.write_text('{"scoring_layer": 2, ' + str(error.value).rpartition("add ")[2] + "}")
    assert BlockRankConfig.load(path) == BlockRankConfig(scoring_layer=2)


def test_a_table_is_ranked_as_the_message_says():
    table = pytest.importorskip("pandas").DataFrame({"title": ["Heart"] * 3, "text": DOCUMENTS})
    ranker = BlockRankReranker.from_pretrained()
    with pytest.raises(TypeError, match="give its rows: ") as error:
        ranker.rank(QUERY, table)
    method = str(error.value).partition("give its rows: ")[2].partition(" of pandas")[0]
    assert len(ranker.rank(QUERY, eval(f"documents{method}", {"documents": table}))) == 3
