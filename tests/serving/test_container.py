"""The container's files name what there is: no engine of containers is needed to see that."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tomllib
import typer

from blockrank_rerank.cli.app import app

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PORT = re.search(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE)[1]


def words_of(instruction):
    return json.loads(re.search(rf"^{instruction} (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])


def test_its_command_is_one_that_there_is_on_the_port_that_is_open():
    program, command, *arguments = [*words_of("ENTRYPOINT"), *words_of("CMD")]
    assert program == "blockrank"
    context = typer.main.get_command(app).commands[command].make_context(command, arguments)
    assert context.params["host"] == "0.0.0.0"
    assert str(context.params["port"]) == PORT
    assert f"127.0.0.1:{PORT}/ready" in DOCKERFILE


def test_it_installs_an_extra_that_there_is_from_files_that_are_not_left_out():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (extra,) = re.findall(r"'\.\[(\w+)\]'", DOCKERFILE)
    assert extra in project["project"]["optional-dependencies"]
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    assert {*project["tool"]["setuptools"]["packages"]["find"]["where"]} - {"."} < kept
    assert {"blockrank_rerank", "README.md", "LICENSE", "NOTICE", "pyproject.toml"} <= kept


def test_open_webui_asks_the_reranker_where_it_answers():
    yaml = pytest.importorskip("yaml", reason="needs the train extra")
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    url = services["open-webui"]["environment"]["RAG_EXTERNAL_RERANKER_URL"]
    assert url == f"http://reranker:{PORT}/v1/rerank"
    assert "reranker" in services
