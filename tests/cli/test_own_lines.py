"""The command lines say what is theirs to say, and nothing of what other libraries say to each other."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import warnings
from importlib.util import find_spec

import pytest
import typer

from blockrank_rerank.cli.run import run_app

SPEAK = """
import logging, warnings
def speak(name):
    warnings.warn(f"a warning of {name}", FutureWarning, stacklevel=2)
    logging.getLogger(name).warning(f"a line of {name}")
    logging.getLogger(name).error(f"an error of {name}")
"""


def run_process(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; from blockrank_rerank.cli.{program} import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        input="the liver stores sugar\naspirin thins the blood\n", capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_default_model_ranks_without_a_word_on_stderr():
    done = run_process("app", "rerank", "what thins blood", "-")
    assert (done.returncode, done.stderr) == (0, "")


def test_help_of_fine_tuning_says_nothing_on_stderr():
    done = run_process("finetune", "--help")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(find_spec("ir_measures") is None or find_spec("bm25s") is None, reason="needs the eval extra")
def test_an_evaluation_says_its_own_lines_alone(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "what thins blood"}\n')
    texts = {"a": "aspirin thins blood", "b": "the liver stores sugar"}
    rows = (f'{{"_id": "{name}", "title": "", "text": "{text}"}}\n' for name, text in texts.items())
    (tmp_path / "corpus.jsonl").write_text("".join(rows))
    done = run_process("app", "evaluate", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert not re.search(r"torch|transformers|bm25s|it/s|Warning|%\|", done.stderr), done.stderr


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A library that lies where installed ones do, and speaks."""
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages/talkative_library.py").write_text(SPEAK)
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    yield __import__("talkative_library")
    sys.modules.pop("talkative_library", None)


def ours(tmp_path):
    """A module of this package, installed where the other is."""
    code = compile(SPEAK, str(tmp_path / "site-packages/blockrank_rerank/pretended.py"), "exec")
    module = {"__name__": "blockrank_rerank.pretended"}
    exec(code, module)
    return module["speak"]


@pytest.fixture
def heard(caplog):
    """Lets pytest's own handler alone: what a logger lets through is what is heard."""
    logger = logging.getLogger("theirs")
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.mark.parametrize("debug", [False, True])
def test_other_libraries_are_heard_where_a_fault_is_looked_for(tmp_path, theirs, heard, monkeypatch, capsys, debug):
    monkeypatch.setenv("BLOCKRANK_DEBUG", str(int(debug)))
    app = typer.Typer()

    @app.command()
    def command() -> None:
        theirs.speak("theirs")
        ours(tmp_path)("ours")
        warnings.warn("a warning of a script", stacklevel=1)

    before = logging.root.manager.disable
    assert run_app(app, "app", ["--"]) == 0
    assert logging.root.manager.disable == before
    said = capsys.readouterr().err
    assert "blockrank: warning: a warning of ours\n" in said
    assert "blockrank: warning: a warning of a script\n" in said
    assert ("a warning of theirs" in said) == debug
    assert heard == ["a line of theirs"] * debug + ["an error of theirs"]
