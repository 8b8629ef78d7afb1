"""The commands that check training data and mine negatives."""

import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import typer

from blockrank_rerank.cli.failures import exit_code, message
from blockrank_rerank.cli.finetune_data import mine_negatives_command, validate_data
from blockrank_rerank.finetune.data import read_examples
from blockrank_rerank.finetune.mining import mining as mining_module
from tests.finetune.data_files import write_folder, write_jsonl

needs_bm25 = pytest.mark.skipif(find_spec("bm25s") is None, reason="bm25s is not installed")
GOOD = {"query": "q", "pos": ["p"], "neg": ["n"]}


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def run(*arguments):
    """Exit code and error line, as the command's main gives them."""
    app = typer.Typer()
    app.command("validate-data")(validate_data)
    app.command("mine-negatives")(mine_negatives_command)
    try:
        typer.main.get_command(app).main(list(arguments), standalone_mode=False)
    except Exception as error:
        return exit_code(error), message(error)
    return 0, ""


def test_good_data_is_described(tmp_path, capsys):
    write_jsonl(tmp_path / "a.jsonl", [GOOD, GOOD])
    assert run("validate-data", "a.jsonl") == (0, "")
    printed = capsys.readouterr().out
    assert "2 examples, 2 different documents" in printed
    assert "1 queries occur more than once" in printed
    assert "documents per query" in printed


def test_bad_data_is_listed_up_to_a_cap_and_has_its_exit_code(tmp_path, capsys):
    write_jsonl(tmp_path / "a.jsonl", [GOOD, {}, {}, {}])
    assert run("validate-data", "a.jsonl", "--max-faults", "2") == (
        5,
        "3 faults in a.jsonl; training will not start",
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines[:2]] == ["a.jsonl:2", "a.jsonl:3"]
    assert "and 1 more faults" in lines[2]


def test_faults_that_many_lines_have_are_one_line_with_their_count(tmp_path, capsys):
    rows = [GOOD, *[{"query": "q"}] * 20, {"query": " ", "pos": ["p"]}, *[{"query": "q", "pos": []}] * 2]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert run("validate-data", "a.jsonl") == (5, "23 faults in a.jsonl; training will not start")
    faults = [line for line in capsys.readouterr().out.splitlines() if line.startswith("a.jsonl:")]
    assert [line.split(": ")[0] for line in faults] == ["a.jsonl:2", "a.jsonl:22", "a.jsonl:23", "a.jsonl:24"]
    assert faults[0].endswith(" (20 times, the last in line 21)")
    assert "times" not in "".join(faults[1:])


def test_the_report_can_be_json(tmp_path, capsys):
    write_jsonl(tmp_path / "a.jsonl", [GOOD, {}])
    assert run("validate-data", "a.jsonl", "--json")[0] == 5
    report = json.loads(capsys.readouterr().out)
    assert (report["usable"], report["fault_count"], report["statistics"]["examples"]) == (False, 1, 1)


def test_columns_are_mapped_on_the_command_line(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": ["p"]}])
    assert run("validate-data", "a.jsonl", "--column", "query=question", "--column", "pos=answer") == (0, "")
    assert run("validate-data", "a.jsonl", "--column", "query") == (
        2,
        "--column must be KNOWN=YOURS, for instance pos=answer, got 'query'",
    )


def test_missing_files_have_their_own_exit_code():
    assert run("validate-data", "no.jsonl") == (4, "no such file or folder: no.jsonl")
    assert run("mine-negatives", "no.jsonl", "--output", "out.jsonl")[0] == 4


@needs_bm25
def test_negatives_are_mined_into_a_file(tmp_path, capsys, monkeypatch):
    write_folder(tmp_path / "data")
    (tmp_path / "held-out").write_text("q2\n")
    monkeypatch.setattr(
        mining_module, "sentence_transformer", lambda model, **_: lambda texts, role: _random_vectors(texts)
    )
    arguments = ("--output", "out.jsonl", "--per-query", "3", "--teacher", "x", "--exclude-queries", "held-out")
    assert run("mine-negatives", "data", *arguments) == (0, "")
    captured = capsys.readouterr()
    assert "1 queries with 1 positives" in captured.out
    assert "the teacher refused" in captured.out
    assert "mining" in captured.err
    [example] = read_examples("out.jsonl")
    assert all(candidate.teacher_score is not None for candidate in example.candidates)


@needs_bm25
def test_several_methods_pooling_and_prefixes_are_options(tmp_path, monkeypatch):
    write_folder(tmp_path / "data")
    told = {}

    def load(model, **settings):
        told.update(settings, model=model)
        return lambda texts, role: _random_vectors(texts)

    monkeypatch.setattr(mining_module, "sentence_transformer", load)
    encoder = ("--model", "x", "--pooling", "cls", "--query-prefix", "find ", "--document-prefix", "on ")
    methods = ("--method", "bm25", "--method", "embeddings")
    assert run("mine-negatives", "data", "--output", "out.jsonl", *methods, *encoder) == (0, "")
    assert told | {"model": "x", "pooling": "cls", "query_prefix": "find ", "document_prefix": "on "} == told


def test_lost_teacher_scores_are_told(tmp_path, capsys):
    write_jsonl(tmp_path / "a.jsonl", [GOOD | {"pos_scores": [1], "neg_scores": [0]}, GOOD | {"query": "r"}])
    arguments = ("mine-negatives", "a.jsonl", "--output", "out.jsonl", "--method", "given", "--per-query")
    assert run(*arguments, "1") == (0, "")
    assert "lost" not in capsys.readouterr().out
    write_jsonl(tmp_path / "a.jsonl", [GOOD | {"pos_scores": [1], "neg_scores": [None]}, GOOD | {"query": "r"}])
    assert run(*arguments, "1") == (0, "")
    assert "1 queries lost the data's teacher scores" in capsys.readouterr().out


def test_negatives_of_the_data_that_are_not_kept_are_told(tmp_path, capsys):
    write_jsonl(tmp_path / "a.jsonl", [GOOD | {"neg": ["m", "n", "o"]}])
    assert run("mine-negatives", "a.jsonl", "--output", "out.jsonl", "--method", "given", "--per-query", "1") == (0, "")
    assert "2 negatives of the data were dropped" in capsys.readouterr().out


def test_the_data_is_never_overwritten_by_what_is_mined_from_it(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [GOOD])
    before = path.read_bytes()
    code, line = run("mine-negatives", "a.jsonl", "--output", "./a.jsonl", "--method", "given")
    assert code != 0
    assert "the output would replace a.jsonl, which is read" in line
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv"])
def test_a_collection_is_never_overwritten_by_what_is_mined_from_it(tmp_path, name):
    folder = write_folder(tmp_path / "data")
    before = (folder / name).read_bytes()
    code, line = run("mine-negatives", "data", "--output", f"data/{name}", "--method", "random")
    assert code == 2
    assert f"the output would replace data/{name}, which is read" in line
    assert (folder / name).read_bytes() == before


@pytest.mark.parametrize("option", ["--exclude-queries", "--exclude-documents"])
def test_a_list_of_ids_is_never_overwritten_by_what_is_mined_without_them(tmp_path, option):
    write_jsonl(tmp_path / "a.jsonl", [GOOD])
    (tmp_path / "ids.txt").write_text("q1\n")
    code, line = run("mine-negatives", "a.jsonl", "--output", "ids.txt", "--method", "given", option, "ids.txt")
    assert code != 0
    assert "the output would replace ids.txt, which is read" in line
    assert (tmp_path / "ids.txt").read_text() == "q1\n"


def test_the_default_model_has_a_tokenizer_to_count_with(tmp_path, capsys):
    write_jsonl(tmp_path / "a.jsonl", [GOOD | {"neg": ["many words " * 20]}])
    assert run("validate-data", "a.jsonl", "--tokenizer", "default", "--token-cap", "10") == (0, "")
    assert "50.0% of the documents are longer than the token cap" in capsys.readouterr().out


def test_queries_that_a_model_cannot_read_are_faults_with_file_and_line(tmp_path, capsys):
    longest, longer = GOOD | {"query": "liver " * 510}, GOOD | {"query": "liver " * 511}
    write_jsonl(tmp_path / "a.jsonl", [longest, longer, GOOD, longer])
    code, line = run("validate-data", "a.jsonl", "--model", "default")
    assert (code, "2 faults in a.jsonl; training will not start" in line) == (5, True)
    told = " ".join(capsys.readouterr().out.split())
    for number in (2, 4):
        assert f"a.jsonl:{number}: query must have at most 511 tokens, template included, got 512" in told
    assert "--long-queries truncate" in told
    assert run("validate-data", "a.jsonl", "--model", "default", "--long-queries", "truncate") == (0, "")
    told = " ".join(capsys.readouterr().out.split())
    assert "2 queries are longer than the model reads: training reads their beginnings" in told
    assert run("validate-data", "a.jsonl") == (0, "")
    assert run("validate-data", "a.jsonl", "--model", "default", "--long-queries", "cut")[0] == 2
    code, line = run("validate-data", "a.jsonl", "--long-queries", "truncate")
    assert (code, "--long-queries goes together with --model" in line) == (2, True)


@pytest.mark.parametrize("option", ["--teacher", "--model"])
@pytest.mark.parametrize("folder", ["./nothere", "../nothere", "/nothere", "~/nothere", "no/such/folder"])
def test_the_hub_is_never_asked_for_a_model_folder_that_is_not_there(tmp_path, option, folder):
    write_jsonl(tmp_path / "a.jsonl", [GOOD])
    method = ("--method", "embeddings") if option == "--model" else ()
    code, line = run("mine-negatives", "a.jsonl", "--output", "out.jsonl", option, folder, *method)
    assert code == 4
    assert "nothere" in line or "no/such/folder" in line
    assert "does not exist" in line


def test_the_output_is_checked_before_anything_is_read(tmp_path):
    (tmp_path / "folder").mkdir()
    assert run("mine-negatives", "no.jsonl", "--output", "folder") == (
        4,
        "expected an output file, got the folder folder",
    )
    assert "no folder" in run("mine-negatives", "no.jsonl", "--output", "no/out.jsonl")[1]


def test_unknown_methods_are_a_mistake_in_the_arguments(tmp_path):
    write_folder(tmp_path / "data")
    code, line = run("mine-negatives", "data", "--output", "out.jsonl", "--method", "magic")
    assert (code, line) == (2, "--method must be one of bm25, embeddings, random, given, got 'magic'")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_missing_library_is_named_with_the_line_that_installs_it(tmp_path, monkeypatch):
    write_folder(tmp_path / "data")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    code, line = run("mine-negatives", "data", "--output", "out.jsonl", "--method", "random", "--teacher", "x")
    assert code == 3
    assert "pip install '.[train]'" in line


def _random_vectors(texts):
    return np.random.default_rng(len(texts)).normal(size=(len(texts), 4))
