import io
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

import blockrank_rerank.cli.evaluate
import blockrank_rerank.reranker
from blockrank_rerank.cli import doctor as doctor_module
from blockrank_rerank.cli import evaluate as evaluate_module
from blockrank_rerank.cli import rerank_documents as rerank_documents_module
from blockrank_rerank.cli import rerank_trec as rerank_trec_module
from blockrank_rerank.cli.app import main
from blockrank_rerank.cli.options import ModelOptions
from blockrank_rerank.cli.ranker import load_ranker
from blockrank_rerank.ranking.results import Ranking
from tests.fake_ranker import FakeRanker

needs_extra = pytest.mark.skipif(find_spec("ir_measures") is None or find_spec("bm25s") is None, reason="eval extra")

QUERY = "how long do fleas live"
FLEAS, CONCRETE, DOGS = "fleas live for three months", "concrete is poured", "dogs carry fleas"


@pytest.fixture
def fake(monkeypatch):
    ranker = FakeRanker()
    ranker.options = []

    def load(options):
        ranker.options.append(options)
        return ranker

    for module in (doctor_module, evaluate_module, rerank_documents_module, rerank_trec_module):
        monkeypatch.setattr(module, "load_ranker", load)
    return ranker


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLOCKRANK_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.txt").write_text(f"{CONCRETE}\n\n{FLEAS}\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"_id": "dogs", "title": "Dogs", "text": DOGS, "year": 1}) + "\n")
    return ["a.txt", "b.jsonl"]


@pytest.fixture
def collection(tmp_path):
    documents = {"fleas": FLEAS, "concrete": CONCRETE, "dogs": DOGS}
    _write_jsonl(tmp_path / "corpus.jsonl", documents)
    _write_jsonl(tmp_path / "queries.jsonl", {"q1": QUERY, "q2": "poured concrete", "q3": "irrelevant"})
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\tfleas\t1\nq2\tconcrete\t1\nq3\tdogs\t0\n"
    )
    (tmp_path / "first.trec").write_text(
        "q1 Q0 concrete 1 3 t\nq1 Q0 dogs 2 2 t\nq1 Q0 fleas 3 1 t\nq2 Q0 dogs 1 2 t\nq2 Q0 concrete 2 1 t\n"
    )
    return tmp_path


TREC = ["rerank", "--queries", "queries.jsonl", "--corpus", "corpus.jsonl", "--run", "first.trec"]


def _write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"_id": key, "text": text}) + "\n" for key, text in texts.items()))


def refusal(capsys, arguments, code):
    """The one line on stderr of a command that must fail."""
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("blockrank: error: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err.removeprefix("blockrank: error: ").strip()


def blockrank(*arguments, stdin=None, **environment):
    return subprocess.run(
        [sys.executable, "-m", "blockrank_rerank.cli", *arguments],
        input=stdin,
        capture_output=True,
        env=os.environ | environment,
        timeout=300,
    )


# Ranking documents


def test_documents_of_several_files_are_ranked_in_a_table(fake, files, capsys):
    assert main(["rerank", QUERY, *files]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["rank", "score", "document", "text"]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert "a.txt:3" in rows[0]
    assert FLEAS in rows[0]
    assert "dogs" in rows[1]
    assert f"Dogs | {DOGS}" in rows[1]


def test_json_holds_everything_about_every_document(fake, files, capsys):
    assert main(["rerank", QUERY, *files, "--json"]) == 0
    ranking = json.loads(capsys.readouterr().out)
    assert [document["rank"] for document in ranking] == [1, 2, 3]
    assert [document["index"] for document in ranking] == [1, 2, 0]
    assert ranking[1] == {
        "rank": 2,
        "index": 2,
        "id": "dogs",
        "source": "b.jsonl:1",
        "score": ranking[1]["score"],
        "raw_score": 1.0,
        "probability": None,
        "truncated": False,
        "passage": None,
        "pruned": False,
        "layers_read": None,
        "unreadable": 0.0,
        "title": "Dogs",
        "text": DOGS,
        "metadata": {"year": 1},
    }


def test_what_early_layers_dropped_comes_last_and_is_counted(files, capsys):
    assert main(["rerank", QUERY, *files, "--prune", "2:1"]) == 0
    *_, last, note = capsys.readouterr().out.splitlines()
    assert last.split()[:2] == ["3", "0.0000"]
    assert note == "the last 2 were dropped by early layers (--prune), in the order of their scores there"
    assert main(["rerank", QUERY, *files, "--prune", "2:1", "--json"]) == 0
    ranking = json.loads(capsys.readouterr().out)
    assert [document["pruned"] for document in ranking] == [False, True, True]


def test_what_a_deadline_left_unread_is_counted(files, capsys, own_assets):
    assert main(["rerank", QUERY, *files, "--deadline-ms", "0.000001"]) == 0
    *_, last, note = capsys.readouterr().out.splitlines()
    assert last.split()[:2] == ["3", "0.0000"]
    assert note == (
        "the last 3 were not read to the end by then (--deadline-ms): 0 by early layers alone, in the order of their "
        "scores there, and 3 not at all"
    )
    assert main(["rerank", QUERY, *files, "--deadline-ms", "60000", "--json"]) == 0
    ranking = json.loads(capsys.readouterr().out)
    assert [document["layers_read"] for document in ranking] == [None] * 3


def test_what_a_deadline_left_unread_is_told_where_limits_leave_it_out(files, capsys, own_assets):
    words = ["rerank", QUERY, *files, "--deadline-ms", "0.000001", "--min-probability", "0.1"]
    assert main(words) == 0
    note = "3 of those left out were not read to the end by then (--deadline-ms)"
    assert capsys.readouterr().out.splitlines() == ["0 of 3 documents shown", note]
    assert main([*words, "--json"]) == 0
    printed = capsys.readouterr()
    assert (json.loads(printed.out), note in printed.err) == ([], True)


def test_what_early_layers_dropped_is_told_where_limits_leave_it_out(files, capsys):
    assert main(["rerank", QUERY, *files, "--prune", "2:1", "--top-k", "2"]) == 0
    *_, shown, left_out, last = capsys.readouterr().out.splitlines()
    assert shown == "2 of 3 documents shown"
    assert left_out == "1 of those left out were dropped by early layers (--prune)"
    assert last.startswith("the last 1 were dropped by early layers")


def test_limits_of_a_list_are_refused_in_the_words_of_the_command_line(fake, files, capsys):
    found = refusal(capsys, ["rerank", QUERY, *files, "--min-probability", "nan"], code=2)
    assert "'--min-probability': probabilities are in 0..1, got nan" in found
    assert "'--top-k'" in refusal(capsys, ["rerank", QUERY, *files, "--top-k", "-1"], code=2)
    assert not fake.options


def test_deadlines_that_cannot_be_kept_are_refused(files, capsys):
    for value in ("0", "-5", "nan", "inf"):
        found = refusal(capsys, ["rerank", QUERY, *files, "--deadline-ms", value], code=2)
        assert "'--deadline-ms': expected a number of milliseconds above 0, got" in found
        assert "None" not in found
    assert "--deadline-ms cannot go together with --explain" in refusal(
        capsys, ["rerank", QUERY, *files, "--deadline-ms", "80", "--explain"], code=2
    )


@pytest.mark.parametrize("value", ["2", "2:x", "a:5", "2:3:4", ""])
def test_pruning_that_cannot_be_read_is_refused(files, capsys, value):
    assert "--prune must be LAYER:COUNT, such as 2:50; got" in refusal(
        capsys, ["rerank", QUERY, *files, "--prune", value], code=2
    )
    assert "--prune must name each layer once; got 1:2 1:1" in refusal(
        capsys, ["rerank", QUERY, *files, "--prune", "1:2", "--prune", "1:1"], 2
    )


def test_top_k_and_threshold_say_how_many_documents_are_left_out(fake, files, capsys):
    assert main(["rerank", QUERY, *files, "--top-k", "1"]) == 0
    assert capsys.readouterr().out.endswith("1 of 3 documents shown\n")
    assert main(["rerank", QUERY, *files, "--top-k", "0"]) == 0
    assert capsys.readouterr().out == "0 of 3 documents shown\n"
    assert main(["rerank", QUERY, *files, "--threshold", "0.3"]) == 0
    assert capsys.readouterr().out.endswith("1 of 3 documents shown\n")
    assert main(["rerank", QUERY, *files, "--threshold", "0.9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_truncated_documents_are_marked_and_counted(fake, tmp_path, capsys):
    (tmp_path / "long.txt").write_text("word " * 100 + "\nshort\n")
    assert main(["rerank", "word", "long.txt"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "*long.txt:1" in lines[1]
    assert "*" not in lines[2]
    assert lines[-1].startswith("* 1 of these documents were longer than the model reads")


def test_long_text_is_cut_to_the_width_of_the_terminal(fake, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    (tmp_path / "long.txt").write_text("word " * 100_000)
    assert main(["rerank", "word", "long.txt"]) == 0
    table = capsys.readouterr().out.splitlines()[:2]
    assert all(len(line) <= 60 for line in table)


def test_a_long_path_keeps_its_end_in_the_table(fake, tmp_path, capsys):
    folder = tmp_path / "a-folder-with-a-long-name"
    folder.mkdir()
    (folder / "document-file.txt").write_text("word")
    assert main(["rerank", "word", str(folder / "document-file.txt")]) == 0
    assert "ng-name/document-file.txt:1 " in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    ["[bold]x[/]", "[/] [link=http://x]y[/link]", "</s> [INST] [SEP]", "👩‍👩‍👧 مرحبا", ":smile: {curly} %s"],
)
def test_user_text_is_printed_literally(fake, tmp_path, capsys, text):
    (tmp_path / "a.txt").write_text(text)
    assert main(["rerank", text, "a.txt"]) == 0
    assert text in capsys.readouterr().out
    assert main(["rerank", text, "a.txt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["text"] == text


def test_a_document_cannot_send_escape_sequences_to_the_terminal(fake, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("before \x1b[2J\x1b]0;title\x07 \x9b31m after\x00")
    assert main(["rerank", "before", "a.txt"]) == 0
    assert not set(capsys.readouterr().out) & set("\x1b\x07\x9b\x00")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_no_character_crashes_the_output_whatever_the_terminal_shows(fake, tmp_path, monkeypatch, encoding):
    (tmp_path / "a.jsonl").write_text('"half \\ud83d pair, é, 🎉, word"\n')
    for flags in ([], ["--json"]):
        stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["rerank", "word", "a.jsonl", *flags]) == 0
        printed = stdout.buffer.getvalue().decode(encoding)
        assert "word" in printed
        if flags:
            assert json.loads(printed)[0]["text"] == "half \ud83d pair, é, 🎉, word"


def test_documents_come_from_standard_input(fake, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(f"{DOGS}\r\n{FLEAS}\r\n".encode())))
    assert main(["rerank", QUERY, "-", "--json"]) == 0
    ranking = json.loads(capsys.readouterr().out)
    assert [(document["source"], document["text"]) for document in ranking] == [
        ("<stdin>:2", FLEAS),
        ("<stdin>:1", DOGS),
    ]


def test_the_title_reaches_the_ranker_apart_from_the_text(fake, files):
    assert main(["rerank", QUERY, *files]) == 0
    assert fake.requests == [(QUERY, [CONCRETE, FLEAS, {"title": "Dogs", "text": DOGS}])]


def test_all_model_options_reach_the_loader(fake, files):
    flags = ["--model=m", "--revision=r", "--scoring-layer=0", "--device=cpu", "--dtype=float32"]
    flags += [
        "--attention=sdpa",
        "--quantization=int8",
        "--max-document-tokens=9",
        "--local-files-only",
        "--trust-remote-code",
    ]
    flags += [
        "--long-documents=error",
        "--long-queries=truncate",
        "--store=states",
        "--query-free",
        "--prune=2:50",
        "--prune=4:20",
        "--max-memory=2GB",
    ]
    assert main(["rerank", QUERY, *files, *flags]) == 0
    assert fake.options == [
        ModelOptions(
            model="m",
            revision="r",
            scoring_layer=0,
            device="cpu",
            dtype="float32",
            attention="sdpa",
            quantization="int8",
            max_document_tokens=9,
            long_documents="error",
            long_queries="truncate",
            store=Path("states"),
            query_free=True,
            prune=["2:50", "4:20"],
            max_memory="2GB",
            local_files_only=True,
            trust_remote_code=True,
        )
    ]


def test_the_loader_hands_every_option_to_the_engine(monkeypatch):
    calls = []

    class Reranker:
        device = "cpu"

        @classmethod
        def from_pretrained(cls, model, **options):
            calls.append((model, options))
            return cls()

    monkeypatch.setattr("blockrank_rerank.BlockRankReranker", Reranker)
    load_ranker(ModelOptions(model="m", scoring_layer=0, max_document_tokens=9, prune=["2:50", "4:20"]))
    load_ranker(ModelOptions())
    (model, options), (default, _) = calls
    assert (model, default) == ("m", blockrank_rerank.model.names.DEFAULT_MODEL)
    assert options == {
        "config": None,
        "cache": None,
        "cache_device": None,
        "token": None,
        "revision": None,
        "scoring_layer": 0,
        "method": "attention",
        "content_free_query": None,
        "max_document_tokens": 9,
        "long_documents": None,
        "long_queries": "error",
        "store": None,
        "tuning": None,
        "calibration": None,
        "prune": {2: 50, 4: 20},
        "max_memory": None,
        "device": None,
        "dtype": None,
        "attention": "auto",
        "quantization": None,
        "local_files_only": False,
        "trust_remote_code": False,
    }


# Arguments that cannot be used


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["rerank", "--nope"], "see: blockrank rerank --help"),
        (["nope"], "No such command 'nope'; see: blockrank --help"),
        (["--nope"], "No such option: --nope"),
        (["rerank", "q", "f", "--top-k", "many"], "--top-k"),
        (["rerank", "--depth", "0"], "--depth"),
        (["evaluate"], "Missing argument"),
        (["rerank"], "ranking documents needs QUERY FILE; missing: QUERY, FILE"),
        (["rerank", "query only"], "missing: FILE"),
        (["rerank", "--run", "r", "--corpus", "c"], "missing: --queries, --output"),
        (["rerank", "--depth", "5"], "missing: --queries, --corpus, --run, --output"),
        (["rerank", "q", "f", "--run", "r"], "QUERY, FILE (ranking documents) cannot go together with --run"),
        (["rerank", "q", "f", "--depth", "5"], "cannot go together with --depth"),
        (["rerank", "q", "f", "--fleet", "job"], "cannot go together with --fleet"),
        ([*TREC, "--output", "o", "--workers", "2"], "--workers are those of a fleet; give its folder with --fleet"),
        ([*TREC, "--output", "o", "--json"], "--json (ranking documents) cannot go together with --queries"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_in_one_line(capsys, arguments, found):
    assert found in refusal(capsys, arguments, 2)


def test_what_the_engine_refuses_is_an_argument_error(fake, files, capsys):
    assert refusal(capsys, ["rerank", " ", *files], 2) == "query must not be empty"


def test_no_arguments_print_the_help(capsys):
    assert main([]) == 0
    assert "rerank" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["rerank", "evaluate", "report", "doctor"])
def test_every_help_text_holds_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"blockrank {command} " in capsys.readouterr().out


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"blockrank-rerank {blockrank_rerank.__version__}\n"


# Files and data that cannot be used


def test_a_missing_file_is_named(fake, capsys):
    assert refusal(capsys, ["rerank", QUERY, "absent.txt"], 4) == "No such file or directory: absent.txt"


def test_a_folder_in_place_of_a_file_or_without_any_is_named(fake, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    assert refusal(capsys, ["rerank", QUERY, "folder"], 4).startswith(
        "no file of documents in the folder folder: expected .csv, .json, "
    )
    named = ["rerank", "--queries", "folder", "--corpus", "folder", "--run", "folder", "--output", "out.trec"]
    assert refusal(capsys, named, 4) == "expected a file of lines, got the folder folder; name a file in it"


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.txt", b"", "no documents in a.txt: expected one document per non-empty line"),
        ("a.jsonl", b'"x"\n[]\n', 'a.jsonl:2: expected a string or a JSON object with "text", got list'),
        ("a.jsonl", b"\n\n{oops\n", "a.jsonl:3: not valid JSON"),
        ("a.txt", b"fine\n\xff\n", "a.txt:2: expected UTF-8 text, got byte 0xff"),
    ],
    ids=["empty", "wrong-type", "malformed", "not-utf8"],
)
def test_bad_documents_are_refused_with_file_and_line(fake, tmp_path, capsys, name, content, found):
    (tmp_path / name).write_bytes(content)
    assert refusal(capsys, ["rerank", QUERY, name], 5).startswith(found)
    assert not fake.options, "bad data must be refused before a model is loaded"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ImportError("no module"), 3),
        (FileNotFoundError("no model there"), 4),
        (ValueError("bad\n  value"), 2),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), 6),
        (FloatingPointError("scores are nan"), 6),
        (RuntimeError(), 6),
        (OSError(28, "No space left on device", "out.trec"), 6),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_failure_has_its_exit_code_and_one_line(fake, files, monkeypatch, capsys, error, code):
    monkeypatch.setattr(fake, "rank", _raise(error))
    refusal(capsys, ["rerank", QUERY, *files], code)


def test_a_traceback_appears_on_request_only(fake, files, monkeypatch, capsys):
    monkeypatch.setattr(fake, "rank", _raise(RuntimeError("broken")))
    assert refusal(capsys, ["rerank", QUERY, *files], 6) == "broken (BLOCKRANK_DEBUG=1 shows the traceback)"
    assert main(["--debug", "rerank", QUERY, *files]) == 6
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("BLOCKRANK_DEBUG", "1")
    assert main(["rerank", QUERY, *files]) == 6
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_ends_with_its_own_code(fake, files, monkeypatch, capsys):
    monkeypatch.setattr(fake, "rank", _raise(KeyboardInterrupt()))
    assert main(["rerank", QUERY, *files]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_warning_is_one_line_on_stderr(fake, files, monkeypatch, capsys):
    def rank(*_, **__):
        warnings.warn("scoring_layer was\nguessed", UserWarning, stacklevel=2)
        return Ranking()

    monkeypatch.setattr(fake, "rank", rank)
    before = warnings.showwarning
    assert main(["rerank", QUERY, *files]) == 0
    assert capsys.readouterr().err == "blockrank: warning: scoring_layer was guessed\n"
    assert warnings.showwarning is before


def _raise(error):
    def fail(*_, **__):
        raise error

    return fail


# Reranking a TREC run


def test_a_run_is_reranked_into_another_run(fake, collection, capsys):
    assert main([*TREC, "--output", "out.trec"]) == 0
    lines = [line.split() for line in (collection / "out.trec").read_text().splitlines()]
    assert [(query, document, rank) for query, _, document, rank, _, _ in lines] == [
        ("q1", "fleas", "1"),
        ("q1", "dogs", "2"),
        ("q1", "concrete", "3"),
        ("q2", "concrete", "1"),
        ("q2", "dogs", "2"),
    ]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("reranked 2 queries with 5 documents (0 truncated), ")
    assert captured.err.endswith("into out.trec\n")


def test_documents_below_the_depth_are_left_out_and_counted(fake, collection, capsys):
    assert main([*TREC, "--output", "out.trec", "--depth", "1"]) == 0
    assert len((collection / "out.trec").read_text().splitlines()) == 2
    assert "3 documents below rank 1 were not reranked and are not in the output" in capsys.readouterr().err


def test_queries_that_a_threshold_leaves_nothing_of_are_counted(fake, collection, capsys):
    assert main([*TREC, "--output", "out.trec", "--threshold", "0.999"]) == 0
    left = {line.split()[0] for line in (collection / "out.trec").read_text().splitlines()}
    expected = f"{2 - len(left)} queries have no document left, so they are not in the output\n"
    assert len(left) < 2
    assert expected in capsys.readouterr().err


def test_a_run_takes_the_limits_of_a_list_and_says_what_they_left_out(fake, collection, capsys):
    assert main([*TREC, "--output", "out.trec", "--min-probability", "0.5", "--top-k", "1"]) == 0
    assert fake.min_probability == 0.5
    assert "3 documents were reranked and left out of the output (--top-k, " in capsys.readouterr().err


def test_limits_of_a_run_that_mean_nothing_are_refused_before_the_model_is_loaded(fake, collection, capsys):
    found = refusal(capsys, [*TREC, "--output", "out.trec", "--min-probability", "2"], 2)
    assert "'--min-probability': probabilities are in 0..1, got 2" in found
    assert not fake.options


def test_top_k_shortens_the_new_run(fake, collection):
    assert main([*TREC, "--output", "out.trec", "--top-k", "1"]) == 0
    assert [line.split()[2] for line in (collection / "out.trec").read_text().splitlines()] == [
        "fleas",
        "concrete",
    ]


def test_a_fleet_without_its_extra_says_how_to_get_it(collection, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    found = refusal(capsys, [*TREC, "--output", "out.trec", "--fleet", "job"], 3)
    assert found.startswith("--fleet needs the extra ray")
    assert "pip install '.[ray]'" in found
    assert not (collection / "job").exists()


def test_a_run_naming_unknown_documents_is_refused_before_anything_is_written(fake, collection, capsys):
    run = collection / "first.trec"
    run.write_text(run.read_text() + "".join(f"q2 Q0 absent{i} {i} -{i} t\n" for i in range(3, 9)))
    found = refusal(capsys, [*TREC, "--output", "out.trec"], 5)
    assert found == "the run names 6 documents without text: absent3, absent4, absent5, absent6, absent7, …"
    assert not (collection / "out.trec").exists()
    assert not fake.options


def test_a_run_naming_unknown_queries_is_refused_before_anything_is_written(fake, collection, capsys):
    run = collection / "first.trec"
    run.write_text(run.read_text() + "q9 Q0 dogs 1 1 t\n")
    assert refusal(capsys, [*TREC, "--output", "out.trec"], 5) == "the run names 1 queries without text: q9"
    assert not (collection / "out.trec").exists()


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("first.trec", "q1 Q0 fleas 1 0.5\n", "first.trec:1: expected 6 columns"),
        ("first.trec", "q1 Q0 fleas 1 nan t\n", "first.trec:1: expected a finite score"),
        ("first.trec", "", "first.trec: the run is empty"),
        (
            "corpus.jsonl",
            '{"_id": "fleas"}\n',
            'corpus.jsonl:1: expected a JSON object with "_id" and "text"',
        ),
        ("queries.jsonl", "[]\n", 'queries.jsonl:1: expected a JSON object with "_id" and "text", got list'),
    ],
)
def test_a_malformed_collection_is_refused_with_file_and_line(fake, collection, capsys, name, content, found):
    (collection / name).write_text(content)
    (collection / "out.trec").write_text("old")
    assert refusal(capsys, [*TREC, "--output", "out.trec"], 5).startswith(found)
    assert (collection / "out.trec").read_text() == "old"


def test_a_failure_while_ranking_leaves_the_old_output_alone(fake, collection, monkeypatch, capsys):
    (collection / "out.trec").write_text("old")
    monkeypatch.setattr(fake, "rank_batch", _raise(FloatingPointError("scores are nan")))
    assert main([*TREC, "--output", "out.trec"]) == 6
    assert (collection / "out.trec").read_text() == "old"


def test_an_output_in_no_folder_is_refused_before_a_model_is_loaded(fake, collection, capsys):
    assert "create it first" in refusal(capsys, [*TREC, "--output", "absent/out.trec"], 4)
    assert not fake.options


@pytest.mark.parametrize("name", ["first.trec", "queries.jsonl", "corpus.jsonl"])
def test_what_is_read_is_never_replaced(fake, collection, capsys, name):
    before = (collection / name).read_bytes()
    (collection / "link").symlink_to(name)
    assert "which is read; write to another file" in refusal(capsys, [*TREC, "--output", "link"], 2)
    assert (collection / name).read_bytes() == before
    assert not fake.options


# Evaluating


@needs_extra
def test_evaluation_never_replaces_the_run_it_reads(fake, collection, capsys):
    before = (collection / "first.trec").read_bytes()
    arguments = ["evaluate", ".", "--run", "first.trec", "--output", "./first.trec"]
    assert "the output would replace first.trec" in refusal(capsys, arguments, 2)
    assert (collection / "first.trec").read_bytes() == before
    assert not fake.options


@needs_extra
def test_a_run_that_cannot_be_written_does_not_cost_the_measures(fake, collection, monkeypatch, capsys):
    monkeypatch.setattr(blockrank_rerank.cli.evaluate, "write_run", _raise(OSError(28, "No space left", "out.trec")))
    assert main(["evaluate", ".", "--run", "first.trec", "--output", "out.trec"]) == 6
    captured = capsys.readouterr()
    assert "nDCG@10" in captured.out
    assert "No space left: out.trec" in captured.err


@needs_extra
@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_evaluation_never_replaces_the_collection_it_reads(fake, collection, capsys, name):
    before = (collection / name).read_bytes()
    assert f"would replace {name}, which is read" in refusal(capsys, ["evaluate", ".", "--output", name], 2)
    assert (collection / name).read_bytes() == before
    assert not fake.options


@pytest.mark.parametrize("option", ["--tuning", "--tuning=a", "--calibration"])
def test_what_was_learnt_for_a_model_is_never_replaced(fake, collection, capsys, option):
    (collection / "learnt").write_text("days of work")
    words = [f"{option}=learnt"] if "=" in option else [option, "learnt"]
    assert "would replace learnt, which is read" in refusal(capsys, [*TREC, "--output", "learnt", *words], 2)
    assert (collection / "learnt").read_text() == "days of work"


@needs_extra
def test_evaluation_reports_measures_before_and_after(fake, collection, capsys):
    assert main(["evaluate", ".", "--run", "first.trec"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [".", "(test)", "before", "after", "difference"]
    assert lines[2].split() == ["RR@10", "0.4167", "1.0000", "+0.5833"]
    assert "model: fake" in lines
    assert "1 judged queries have no document judged 1 or higher: left out" in lines
    assert any(line.startswith("2 queries, 2.5 documents per query") for line in lines)


@needs_extra
def test_evaluation_without_a_run_uses_bm25_and_prints_json(fake, collection, capsys):
    assert main(["evaluate", ".", "--json", "--output", "out.trec"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["first_stage"] == "BM25 (bm25s)"
    assert report["before"].keys() == report["after"].keys() == {"nDCG@10", "RR@10", "AP", "R@10", "R@100"}
    assert (report["queries"], report["queries_without_relevant"]) == (2, 1)
    assert (collection / "out.trec").is_file()


@needs_extra
def test_the_run_of_another_collection_is_refused(collection, capsys):
    Path("other.trec").write_text("elsewhere Q0 d1 1 1.0 x\n")
    found = refusal(capsys, ["evaluate", ".", "--run", "other.trec"], 5)
    assert "is in the run: it is another collection's" in found


@pytest.mark.parametrize("columns", ["30", "40", "60"])
def test_a_narrow_terminal_shows_numbers_whole(fake, files, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["rerank", QUERY, *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"rank +score", lines[0])
    assert re.match(r" +1  0\.\d{4}", lines[1])


@needs_extra
def test_a_sample_of_the_queries_is_evaluated(fake, collection, capsys):
    assert main(["evaluate", ".", "--json", "--queries-limit", "1", "--seed", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["queries"] == 1
    assert len(fake.requests) == 1


@needs_extra
def test_an_id_that_no_run_can_hold_is_refused_before_the_work(fake, collection, capsys):
    for name in ("corpus.jsonl", "qrels/test.tsv"):
        path = collection / name
        path.write_text(path.read_text().replace("fleas", "the fleas", 1))
    found = refusal(capsys, ["evaluate", ".", "--output", "out.trec"], 5)
    assert "the id 'the fleas' cannot stand in a TREC run" in found
    assert not fake.requests
    assert main(["evaluate", "."]) == 0


@needs_extra
def test_judgements_of_another_corpus_are_refused_and_missing_ones_counted(fake, collection, capsys):
    path = collection / "qrels/test.tsv"
    judged = path.read_text()
    path.write_text(judged.replace("concrete", "Concrete"))
    assert main(["evaluate", "."]) == 0
    assert "1 of 2 relevant documents are not in corpus.jsonl, such as 'Concrete'" in capsys.readouterr().err
    path.write_text(judged.replace("concrete", "Concrete").replace("fleas", "Fleas"))
    found = refusal(capsys, ["evaluate", "."], 5)
    assert "none of the 2 relevant documents of split 'test' is in corpus.jsonl, such as 'Concrete'" in found


@needs_extra
def test_an_unknown_split_lists_those_available(fake, collection, capsys):
    assert refusal(capsys, ["evaluate", ".", "--split", "dev"], 4).endswith("splits available: test")


def test_evaluation_without_its_extra_names_the_install_line(fake, collection, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    assert refusal(capsys, ["evaluate", "."], 3).endswith("pip install '.[eval]'")


@needs_extra
def test_an_evaluation_run_naming_unknown_documents_is_refused(fake, collection, capsys):
    (collection / "first.trec").write_text("q1 Q0 absent 1 1 t\n")
    found = refusal(capsys, ["evaluate", ".", "--run", "first.trec"], 5)
    assert found == "the run names 1 documents without text: absent"
    assert not fake.options


# Doctor


def test_doctor_reports_versions_choices_and_a_real_request(fake, capsys):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {finding["what"] for finding in report["versions"]} >= {
        "python",
        "torch",
        "transformers",
        "triton",
    }
    assert {finding["what"] for finding in report["optional"]} >= {
        "ir-measures",
        "llama-index-core",
        "haystack-ai",
    }
    assert all(finding["detail"] for findings in report.values() for finding in findings)
    assert "ranked 2 documents" in report["model"][0]["detail"]
    assert main(["doctor"]) == 0
    assert "ranked 2 documents" in " ".join(capsys.readouterr().out.split())


def test_doctor_says_what_a_missing_package_means(fake, capsys, monkeypatch):
    missing = doctor_module.Package("surely-not-installed", "needed for nothing")
    monkeypatch.setattr(doctor_module, "OPTIONAL", (missing,))
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["optional"] == [
        {"what": "surely-not-installed", "usable": False, "detail": "not installed; needed for nothing"}
    ]


def test_doctor_fails_when_the_default_model_does(fake, capsys, monkeypatch):
    monkeypatch.setattr(doctor_module, "load_ranker", _raise(OSError(2, "No such file", "model.safetensors")))
    assert main(["doctor", "--json"]) == 6
    assert json.loads(capsys.readouterr().out)["model"] == [
        {"what": "default model", "usable": False, "detail": "No such file: model.safetensors"}
    ]


# The installed command


def test_help_does_not_import_the_engine():
    code = "import sys; from blockrank_rerank.cli.app import main; main(['rerank', '--help']); " + (
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300).returncode == 0


def test_a_reader_that_goes_away_causes_no_noise():
    process = subprocess.Popen(
        [sys.executable, "-m", "blockrank_rerank.cli", "evaluate", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=300) == 1


def test_the_process_ends_with_the_exit_code_and_one_line():
    result = blockrank("rerank", "q", "absent-\udcff.txt", PYTHONIOENCODING="ascii")
    assert result.returncode == 4
    assert result.stderr == b"blockrank: error: No such file or directory: absent-\\udcff.txt\n"
    assert result.stdout == b""


@pytest.mark.parametrize(("streams", "code"), [(">&-", 4), ("2>&-", 4), (">&- 2>&-", 4), ("2>/dev/full", 4)])
def test_streams_that_take_nothing_change_no_exit_code(streams, code):
    command = shlex.join([sys.executable, "-m", "blockrank_rerank.cli", "rerank", "q", "absent.txt"])
    assert subprocess.run(["sh", "-c", f"{command} {streams}"], capture_output=True, timeout=300).returncode == code


def test_what_is_printed_into_a_closed_stream_goes_nowhere(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["--version"]) == 0


# Explanations and probabilities, with the model in the package


@pytest.mark.parametrize("more", [[], ["--explain"], ["--json"], ["--json", "--explain"]])
def test_a_list_that_may_hold_no_answer_is_said_to_be_one(tmp_path, capsys, more):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("Iron deficiency is treated with tablets.\nBread is baked in an oven.\n")
    main(["rerank", "how tall is the Eiffel tower", str(corpus), *more])
    printed = capsys.readouterr()
    assert "maybe none of them answers it: " in (printed.err if "--json" in more else printed.out)
    main(["rerank", "how is iron deficiency treated", str(corpus), *more])
    assert "answers it" not in "".join(capsys.readouterr())


def test_explain_prints_the_sentences_that_were_looked_at(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_text("Bread is baked. Aspirin treats a heart attack.\nThe moon is far.\n", encoding="utf-8")
    assert main(["rerank", "what treats a heart attack", str(path), "--explain"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("%  Aspirin treats a heart attack.") < printed.index("%  The moon is far.")
    assert main(["rerank", "what treats a heart attack", str(path), "--explain", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert first["highlights"][0]["text"] == "Aspirin treats a heart attack."
    assert 0 < first["probability"] < 1


def test_explain_marks_words_without_a_colour_that_a_light_or_dark_terminal_hides(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    path = tmp_path / "a.txt"
    path.write_text("Bread is baked. Aspirin treats a heart attack.\n", encoding="utf-8")
    assert main(["rerank", "what treats a heart attack", str(path), "--explain"]) == 0
    styles = set(re.findall(r"\x1b\[([\d;]+)m", capsys.readouterr().out))
    assert "1;4" in styles
    assert styles <= {"0", "1", "4", "1;4"}


def test_min_probability_may_leave_no_document(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_text("Bread is baked.\nThe moon is far.\n", encoding="utf-8")
    assert main(["rerank", "what treats a heart attack", str(path), "--min-probability", "0.999"]) == 0
    assert "0 of 2 documents shown" in capsys.readouterr().out


def test_bench_times_new_and_prepared_documents(own_assets, capsys):
    assert main(["bench", "--documents", "4", "--words", "6", "--repeats", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["model"], report["documents"]) == ("default", 4)
    assert report["tokens"] > 4 * 3
    assert set(report["ms"]) == {"new", "prepared"}
    assert all(ms > 0 for ms in report["ms"].values())
    assert main(["bench", "--documents", "4", "--words", "6", "--repeats", "1"]) == 0
    assert report["profile"]["token_layer_s"] > 0
    header, new, prepared, profile, facts = capsys.readouterr().out.splitlines()
    assert profile.startswith("deadlines reckon with ")
    assert header.split() == ["documents", "ms", "documents/s"]
    assert (new.split()[:2], prepared.split()[:2]) == (["4", "new"], ["4", "prepared"])
    assert facts.startswith(f"{report['tokens']} tokens; default on ")


def test_finetune_is_a_command_of_blockrank_too(capsys):
    assert main(["finetune", "train", "output=somewhere", "data=x.jsonl", "--dry-run"]) == 0
    assert "output: " in capsys.readouterr().out
    assert main(["--debug", "finetune", "validate-data", "absent.jsonl"]) == 4
    assert "Traceback" in capsys.readouterr().err


# Queries in the corpus, and first stages that find nothing


@needs_extra
def test_a_query_in_the_corpus_is_left_out_and_that_is_said(fake, collection, capsys):
    with (collection / "corpus.jsonl").open("a") as stream:
        stream.write(json.dumps({"_id": "q1", "text": QUERY}) + "\n")
    run = collection / "first.trec"
    run.write_text("q1 Q0 q1 0 9 t\n" + run.read_text())
    assert main(["evaluate", "."]) == 0
    assert "1 queries are documents of the corpus themselves: left out" in capsys.readouterr().out
    assert main(["evaluate", ".", "--run", "first.trec", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["queries_in_corpus"] == 1
    assert main([*TREC, "--output", "out.trec", "--depth", "3"]) == 0
    assert "1 queries are documents of the corpus themselves" in capsys.readouterr().err
    documents = [line.split()[2] for line in (collection / "out.trec").read_text().splitlines()]
    assert sorted(documents) == ["concrete", "concrete", "dogs", "dogs", "fleas"]
    run.write_text("q1 Q0 q1 1 9 t\nq2 Q0 concrete 1 2 t\n")
    assert main([*TREC, "--output", "out.trec"]) == 0
    assert (collection / "out.trec").read_text().startswith("q2 Q0 concrete 1 ")


@needs_extra
def test_an_evaluation_without_any_candidate_is_refused_before_a_model_is_loaded(fake, collection, capsys):
    _write_jsonl(collection / "queries.jsonl", {"q1": "zzz", "q2": "yyy", "q3": "xxx"})
    found = refusal(capsys, ["evaluate", "."], 5)
    assert "the first stage finds no document for any of the 2 queries" in found
    assert "--run" in found
    assert not fake.options


# Paths


def test_the_home_folder_is_meant_in_every_path(fake, collection, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(collection))
    words = ["rerank", "--queries=~/queries.jsonl", "--corpus=~/corpus.jsonl", "--run=~/first.trec"]
    assert main([*words, "--output=~/out put.trec"]) == 0
    assert (collection / "out put.trec").exists()
    (collection / "a.txt").write_text("fleas\n")
    assert main(["rerank", "fleas", "~/a.txt"]) == 0
    assert not list(collection.glob("~*"))
    capsys.readouterr()
    assert "names a home folder that is not known" in refusal(capsys, [*words, "--output=~nobody-here/x"], 2)


@needs_extra
def test_a_collection_in_the_home_folder_is_evaluated(fake, collection, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(collection))
    assert main(["evaluate", "~", "--run=~/first.trec", "--output=~/o.trec"]) == 0
    assert (collection / "o.trec").exists()
