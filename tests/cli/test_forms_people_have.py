"""What people type and pipe into ``blockrank rerank``, and read out of it."""

import io
import json
import os
import sys
from contextlib import contextmanager

import pytest

from blockrank_rerank.cli import bench as bench_module
from blockrank_rerank.cli import finetune as finetune_module
from blockrank_rerank.cli import prepare as prepare_module
from blockrank_rerank.cli import rerank_documents as rerank_documents_module
from blockrank_rerank.cli.app import main
from tests.fake_ranker import FakeRanker

QUERY = "how long do fleas live"
FLEAS, CONCRETE = "fleas live for three months", "concrete is poured"


@pytest.fixture
def fake(monkeypatch, tmp_path):
    ranker = FakeRanker()
    monkeypatch.setattr(rerank_documents_module, "load_ranker", lambda options: options.values() and ranker)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return ranker


@pytest.fixture
def piped(monkeypatch):
    """Standard input as a pipe that somebody wrote into."""

    def feed(content):
        reading, writing = os.pipe()
        os.write(writing, content.encode())
        os.close(writing)
        monkeypatch.setattr(sys, "stdin", os.fdopen(reading))

    return feed


def refused(capsys, *arguments):
    assert main(["rerank", *arguments]) == 2
    return capsys.readouterr().err


# Standard input


def test_a_pipe_is_read_where_no_file_is_named(fake, piped, capsys):
    piped(f"{CONCRETE}\n{FLEAS}\n")
    assert main(["rerank", QUERY, "--json"]) == 0
    assert [(d["source"], d["text"]) for d in json.loads(capsys.readouterr().out)] == [
        ("<stdin>:2", FLEAS),
        ("<stdin>:1", CONCRETE),
    ]


def test_a_file_as_standard_input_is_read_too(fake, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.txt").write_text(FLEAS)
    with (tmp_path / "a.txt").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert main(["rerank", QUERY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["source"] == "<stdin>:1"


def test_a_pipe_is_left_alone_where_files_are_named_or_a_query_is_missing(fake, piped, tmp_path, capsys):
    piped("never read\n")
    (tmp_path / "a.txt").write_text(FLEAS)
    assert main(["rerank", QUERY, "a.txt", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1
    assert "missing: QUERY, FILE" in refused(capsys)
    assert "missing: --queries" in refused(capsys, "--depth", "5")


@pytest.mark.parametrize("stdin", [None, io.StringIO("x")])
def test_what_is_no_pipe_is_not_waited_for(fake, monkeypatch, capsys, stdin):
    monkeypatch.setattr(sys, "stdin", stdin)
    assert "missing: FILE" in refused(capsys, QUERY)


# Names and units


def test_columns_and_units_reach_the_reader(fake, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(json.dumps({"passage": CONCRETE, "body": FLEAS, "key": "d1"}))
    assert main(["rerank", QUERY, "a.jsonl"]) == 5
    assert '"passage", "body" may each be the text; choose one: --column text="passage"' in capsys.readouterr().err
    assert main(["rerank", QUERY, "a.jsonl", "--column", "text=body", "--column", "id=key", "--json"]) == 0
    [document] = json.loads(capsys.readouterr().out)
    assert (document["text"], document["id"], document["metadata"]) == (FLEAS, "d1", {"passage": CONCRETE})
    (tmp_path / "a.md").write_text(f"# Fleas\n\n{FLEAS}\n\n{FLEAS}\n\n# Concrete\n{CONCRETE}\n")
    for unit, count in (("line", 5), ("paragraph", 3), ("heading", 2), ("file", 1)):
        assert main(["rerank", QUERY, "a.md", "--unit", unit, "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)) == count


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--column", "text"], "--column must be KNOWN=YOURS, for instance text=abstract, got 'text'"),
        (["--column", "pos=x"], "--column may map text, title, id, got pos"),
        (["--unit", "sentence"], "--unit"),
        (["--unit", "file", "--run", "r"], "--unit (ranking documents) cannot go together with --run"),
    ],
)
def test_columns_and_units_that_mean_nothing_are_refused(fake, tmp_path, capsys, arguments, found):
    (tmp_path / "a.txt").write_text(FLEAS)
    files = [] if "--run" in arguments else [QUERY, "a.txt"]
    assert found in refused(capsys, *files, *arguments)


def test_preparing_reads_what_reranking_reads(fake, tmp_path, monkeypatch):
    given = []

    class Preparing:
        def prepare_store(self, store, documents, **_):
            given.extend(documents)
            raise SystemExit

    monkeypatch.setattr(prepare_module, "load_ranker", lambda _: Preparing())
    (tmp_path / "a.csv").write_text(f"id,abstract\n1,{FLEAS}\n")
    with pytest.raises(SystemExit):
        main(["prepare", "a.csv", "states", "--column", "text=abstract"])
    assert [(document.id, document.text) for document in given] == [("1", FLEAS)]


# Output


def test_into_a_pipe_go_whole_names_and_texts_with_tabs_between(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS")
    folder = tmp_path / ("long-name-" * 8)
    folder.mkdir()
    text = "word\tand " * 1000
    (folder / "a.txt").write_text(f"{text}\n{CONCRETE}\n")
    assert main(["rerank", "word", f"{folder}/a.txt", "--top-k", "1"]) == 0
    out, err = capsys.readouterr()
    assert [line.split("\t") for line in out.splitlines()] == [
        ["rank", "score", "probability", "document", "text"],
        ["1", "0.7311", "", f"*{folder}/a.txt:1", " ".join(text.split())],
    ]
    assert "1 of 2 documents shown\n" in err
    assert "* 1 of these documents were longer than the model reads" in err


def test_a_piped_text_cannot_send_escape_sequences_or_columns(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS")
    (tmp_path / "a.jsonl").write_text(json.dumps("word \x1b[2J\n\tand \x9b31m"))
    assert main(["rerank", "word", "a.jsonl"]) == 0
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\x9b")
    assert [line.count("\t") for line in out.splitlines()] == [4, 4]


def test_on_a_terminal_the_table_keeps_to_its_width(fake, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr(sys, "stdout", Terminal())
    (tmp_path / "a.txt").write_text("word " * 1000)
    assert main(["rerank", "word", "a.txt"]) == 0
    assert "\t" not in sys.stdout.getvalue()
    assert max(map(len, sys.stdout.getvalue().splitlines())) < 300  # with escapes


# Options


@pytest.mark.parametrize("arguments", [["-h"], ["rerank", "-h"], ["prepare", "-h"], ["finetune", "-h"]])
def test_help_has_a_short_name(arguments, capsys):
    assert main(arguments) == 0
    assert "Usage" in capsys.readouterr().out
    if arguments[0] == "finetune":
        assert finetune_module.main(["-h"]) == 0
        assert finetune_module.main(["validate-data", "-h"]) == 0


def test_top_k_has_a_short_name(fake, tmp_path, capsys):
    (tmp_path / "a.txt").write_text(f"{FLEAS}\n{CONCRETE}\n")
    assert main(["rerank", QUERY, "a.txt", "-k", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_a_threshold_that_no_share_can_reach_is_refused_with_the_reason(fake, tmp_path, capsys):
    (tmp_path / "a.txt").write_text(FLEAS)
    found = refused(capsys, QUERY, "a.txt", "--threshold", "1.5")
    assert "scores are shares of the list and at most 1, so 1.5 would drop every document" in found
    assert main(["rerank", QUERY, "a.txt", "--threshold", "1"]) == 0


@pytest.mark.parametrize(("word", "bytes_"), [("1", "1"), ("2048", "2,048"), ("100KB", "100,000")])
def test_a_limit_of_memory_that_no_pass_keeps_is_refused_with_the_reason(fake, tmp_path, capsys, word, bytes_):
    (tmp_path / "a.txt").write_text(FLEAS)
    found = refused(capsys, QUERY, "a.txt", "--max-memory", word)
    assert f"--max-memory must be at least 1MB, got '{word}', which is {bytes_} bytes" in found
    assert main(["rerank", QUERY, "a.txt", "--max-memory", "1MB"]) == 0


# Interrupts


def test_an_interrupted_training_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    training_run = pytest.importorskip("blockrank_rerank.finetune.training_run")
    monkeypatch.chdir(tmp_path)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "finetune", interrupted)
    assert finetune_module.main(["train", "output=my model", "data=x.jsonl", "--max-steps", "3"]) == 130
    line = "blockrank-finetune train 'output=my model' data=x.jsonl --max-steps=3 --resume"
    assert capsys.readouterr().err == f"interrupted; go on from the last checkpoint with: {line}\n"
    monkeypatch.setenv("RANK", "1")
    assert finetune_module.main(["train", "output=m", "data=x.jsonl"]) == 130
    assert capsys.readouterr().err == ""


def test_an_interrupted_preparation_says_how_to_go_on(fake, tmp_path, monkeypatch, capsys):
    class Preparing:
        def prepare_store(self, *_, **__):
            raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module, "load_ranker", lambda _: Preparing())
    (tmp_path / "a.txt").write_text(FLEAS)
    assert main(["prepare", "a.txt", "states"]) == 130
    found = "interrupted; what was prepared stays in states: run the same command again to go on"
    assert found in capsys.readouterr().err


# Progress


def test_bench_tells_how_far_it_is(monkeypatch, capsys, own_assets):
    told = []

    @contextmanager
    def progress(what, total, characters, show):
        told.append((what, total))
        yield lambda items, tokens: told.append(items)

    monkeypatch.setattr(bench_module, "work_progress", progress)
    assert main(["bench", "--documents", "3", "--words", "4", "--repeats", "2", "--json"]) == 0
    assert told[0] == ("timing", 7)
    assert sum(told[1:]) == 7
    capsys.readouterr()
