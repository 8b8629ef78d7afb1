"""No control character of a user's text leaves the process raw, wherever it comes from."""

import io
import json
import sys
import warnings
from importlib.util import find_spec

import pytest
import typer
from rich.table import Table

from blockrank_rerank.cli import rerank_documents as rerank_documents_module
from blockrank_rerank.cli import rerank_trec as rerank_trec_module
from blockrank_rerank.cli.app import main
from blockrank_rerank.cli.console import print_line, print_note, print_table
from blockrank_rerank.cli.finetune import main as finetune
from blockrank_rerank.cli.run import run_app
from blockrank_rerank.finetune.callbacks import Evaluate
from blockrank_rerank.ranking.progress import progress_bar
from tests.fake_ranker import FakeRanker

needs_extra = pytest.mark.skipif(find_spec("ir_measures") is None or find_spec("bm25s") is None, reason="eval extra")

EVIL = "\x1b[2J\x07\x9b31m\x7f\x08"
"""C0 and C1 controls: clear the screen, ring, colour, delete, backspace."""
ALLOWED = {"\n", "\t"}


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for module in (rerank_documents_module, rerank_trec_module):
        monkeypatch.setattr(module, "load_ranker", lambda options: FakeRanker())


@pytest.fixture
def collection(tmp_path):
    write(tmp_path / "corpus.jsonl", [{"_id": f"d{EVIL}", "text": f"fleas {EVIL}"}, {"_id": "e", "text": "fleas"}])
    write(tmp_path / "queries.jsonl", [{"_id": f"q{EVIL}", "text": f"fleas {EVIL}"}])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(f"q{EVIL}\td{EVIL}\t1\n")
    (tmp_path / "run.trec").write_text(f"q{EVIL} Q0 d{EVIL} 1 2 t\n")
    return tmp_path


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def printed(capsys):
    """What a command printed, which must hold no control character."""
    out, err = capsys.readouterr()
    raw = {c for c in out + err if ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0} - ALLOWED
    assert not raw, raw
    return out, err


TREC = ["rerank", "--queries", "queries.jsonl", "--corpus", "corpus.jsonl", "--run", "run.trec", "--output"]


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_documents_ids_titles_and_other_keys(tmp_path, capsys, flags):
    write(tmp_path / "a.jsonl", [{"_id": EVIL, "title": EVIL, "text": f"fleas {EVIL}", EVIL: {EVIL: EVIL}}])
    assert main(["rerank", f"fleas {EVIL}", "a.jsonl", *flags]) == 0
    out, _ = printed(capsys)
    if flags:
        [record] = json.loads(out)
        assert (record["id"], record["text"], record["metadata"]) == (EVIL, f"fleas {EVIL}", {EVIL: {EVIL: EVIL}})


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_file_names(tmp_path, capsys, flags):
    (tmp_path / f"{EVIL}.txt").write_text("fleas\n")
    assert main(["rerank", "fleas", f"{EVIL}.txt", *flags]) == 0
    printed(capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["rerank", "fleas", f"absent{EVIL}.txt"],
        ["rerank", "fleas", "corpus.jsonl", f"--{EVIL}"],
        ["rerank", "fleas", "corpus.jsonl", "--top-k", EVIL],
        [EVIL],
        ["evaluate", EVIL],
        ["evaluate", ".", "--split", EVIL],
        ["--debug", "rerank", "fleas", f"absent{EVIL}.txt"],
        [*TREC, f"absent{EVIL}/out.trec"],
        ["finetune", "validate-data", f"absent{EVIL}.jsonl"],
        ["finetune", "train", f"{EVIL}=1"],
        ["finetune", "mine-negatives", "corpus.jsonl", "--output", "o.jsonl", "--method", EVIL],
        ["finetune", "mine-negatives", "corpus.jsonl", "--output", "o.jsonl", "--column", EVIL],
    ],
)
def test_arguments_in_errors(collection, capsys, arguments):
    assert main(arguments) != 0
    printed(capsys)


def test_the_name_of_a_run_that_was_written_and_ids_in_it(collection, capsys):
    assert main([*TREC, f"out{EVIL}.trec"]) == 0
    _, err = printed(capsys)
    assert "\\x1b[2J" in err


def test_ids_without_text(collection, capsys):
    (collection / "run.trec").write_text(f"q{EVIL} Q0 x{EVIL} 1 2 t\n")
    assert main([*TREC, "out.trec"]) == 5
    printed(capsys)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.trec", f"q Q0 d {EVIL} 2 t\n"),
        ("run.trec", f"q Q0 d 1 {EVIL} t\n"),
        ("queries.jsonl", json.dumps({EVIL: 1}) + "\n"),
        ("queries.jsonl", json.dumps({"_id": EVIL, "text": ""}) + "\n"),
        ("corpus.jsonl", f'{{"{EVIL}\n'),
    ],
)
def test_values_and_keys_of_malformed_files(collection, capsys, name, content):
    (collection / name).write_text(content)
    assert main([*TREC, "out.trec"]) == 5
    printed(capsys)


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_faults_of_training_data(tmp_path, capsys, flags):
    write(tmp_path / f"{EVIL}.jsonl", [{EVIL: 1}, {"query": EVIL, "pos": [EVIL], "neg": 3}])
    assert finetune(["validate-data", f"{EVIL}.jsonl", *flags]) == 5
    printed(capsys)


@needs_extra
def test_mined_examples_and_judgements(collection, capsys):
    assert finetune(["mine-negatives", ".", "--split", "test", "--output", f"{EVIL}.jsonl"]) == 0
    printed(capsys)


def app_that(does):
    app = typer.Typer()

    @app.command()
    def command() -> None:
        does()

    return app


def fail():
    raise RuntimeError(EVIL)


@pytest.mark.parametrize(
    "does",
    [
        lambda: print(EVIL),
        lambda: print(EVIL, file=sys.stderr),
        lambda: sys.stdout.writelines([EVIL]),
        lambda: typer.echo(EVIL),
        lambda: print_line(EVIL),
        lambda: print_note(EVIL),
        lambda: warnings.warn(EVIL, stacklevel=1),
        lambda: print_table(table()),
        fail,
    ],
)
def test_whatever_a_command_prints(capsys, does):
    run_app(app_that(does), "app", ["--"])
    printed(capsys)


def table():
    made = Table(EVIL)
    made.add_row(EVIL)
    return made


def test_the_streams_are_as_before_when_a_command_has_ended(capsys):
    before = sys.stdout, sys.stderr
    main(["--version"])
    assert (sys.stdout, sys.stderr) == before


def test_a_terminal_is_drawn_on_with_escapes_of_ours_alone(monkeypatch):
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    run_app(app_that(lambda: print_table(table())), "app", ["--"])
    shown = terminal.getvalue()
    assert "\x1b[1m" in shown
    assert "\x1b[2J" not in shown
    assert not set(shown) & {"\x07", "\x9b", "\x7f", "\x08"}


def test_bars_of_other_libraries_stay_bars(monkeypatch):
    lines = io.StringIO()
    monkeypatch.setattr(sys, "stderr", lines)
    run_app(app_that(lambda: print("10 %\r20 %", file=sys.stderr)), "app", ["--"])
    assert lines.getvalue() == "10 %\n20 %\n"


def test_bars_spell_out_control_characters_of_what_is_shown_and_printed_beside_them(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar(f"reading \x9b31m\x07{'x'}", "lines", 2) as advance:
        print("a name \x9b31m\x07", file=sys.stderr)
        advance(1, 0)
    shown = terminal.getvalue()
    assert "\x9b" not in shown
    assert "\x07" not in shown
    assert shown.count(r"\x9b") >= 2


def test_what_training_prints_is_spelled_out(capsys, tmp_path):
    history = tmp_path / "history"
    measures = {f"mean_{prefix}{key}": 0.5 for prefix in ("", "first_stage_") for key in ("ndcg@10", "mrr@10")}
    Evaluate(lambda: measures, lambda: None, 0, history).record(1, f"step {EVIL}")
    assert r"\x1b[2J" in printed(capsys)[0]
