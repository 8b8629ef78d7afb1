"""`blockrank calibrate`: judged lists in, a calibration out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="needs the calibrate extra")
pytest.importorskip("bm25s", reason="needs the eval extra")

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.cli.app import main
from blockrank_rerank.model.probability_map import ProbabilityMap

SHORT = ("--max-document-tokens", "48", "--long-documents", "truncate")
SAMPLE = Path(__file__).parents[2] / "examples/data/medquad-sample"


def words(labels, output, *more):
    return ["calibrate", str(labels), "--output", str(output), "--device", "cpu", "--dtype", "float32", *more]


def rows(count=24):
    """Queries of which a word is in the relevant document."""
    topics = ["fleas", "iron", "sugar", "heart", "liver", "sleep", "bones", "lungs"]
    for number in range(count):
        topic, other = topics[number % 8], topics[(number + 3) % 8]
        query = f"what is known of {topic} number {number}"
        yield {"query": query, "document": f"{topic} were studied in year {number}", "label": 1}
        yield {"query": query, "document": f"{other} are something else, case {number}", "label": 0}


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_beir_folder_is_calibrated_and_the_file_works(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="needs the report extra")
    output = tmp_path / "c.json"
    assert main(words(SAMPLE, output, "--recall", "0.7", "--depth", "3", *SHORT)) == 0
    shown = capsys.readouterr().out
    assert "recall 0.7 of lists to come, in the mean" in shown
    assert "expected calibration error" in shown
    assert (tmp_path / "c.svg").read_text(encoding="utf-8").startswith("<svg")
    found = ProbabilityMap.load(output)
    assert found.facts["guarantee"] == {"measure": "recall", "level": 0.7, "confidence": None, "lists": 9}
    assert found.facts["held_out"]["before"]["bins"]
    ranker = BlockRankReranker.from_pretrained(dtype="float32", device="cpu", calibration=output)
    ranking = ranker.rank(
        "What causes anemia?", ["Too little iron causes anemia.", "Cars have wheels."], min_probability=0
    )
    assert [d.probability for d in ranking] == found.probabilities([d.raw_score for d in ranking])


def test_pairs_of_a_file_are_calibrated_for_a_precision(tmp_path, capsys):
    output = tmp_path / "c.json"
    labels = write(tmp_path / "l.jsonl", rows())
    assert main(words(labels, output, "--precision", "0.6", "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["guarantee"] == {"measure": "precision", "level": 0.6, "confidence": 0.9, "lists": 12}
    assert printed["threshold"] == ProbabilityMap.load(output).threshold
    assert printed["held_out"]["lists"] == 6


def relabelled(label):
    return [row | {"label": label} for row in rows()]


def unanswered(count):
    """Lists of two documents of which neither is relevant."""
    for number in range(count):
        query = f"what else is known, part {number}"
        for document in ("concrete hardens", "roads are built"):
            yield {"query": query, "document": f"{document}, case {number}", "label": 0}


def test_judged_lists_without_a_relevant_document_count(tmp_path, capsys):
    labels = write(tmp_path / "l.jsonl", [*rows(), *unanswered(24)])
    assert main(words(labels, tmp_path / "c.json", "--precision", "0.6", "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["guarantee"]["lists"] == 24
    assert (printed["held_out"]["lists"], printed["held_out"]["documents"]) == (12, 24)


def test_of_lists_that_chose_a_recall_those_with_a_relevant_document_are_told(tmp_path, capsys):
    labels = write(tmp_path / "l.jsonl", [*rows(), *unanswered(24)])
    assert main(words(labels, tmp_path / "c.json", "--recall", "0.7", "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert 0 < printed["guarantee"]["lists"] < 24


def test_lists_of_one_judged_document_are_calibrated(tmp_path):
    lines = [row | {"query": f"{row['query']}, {row['label']}"} for row in rows()]
    assert main(words(write(tmp_path / "l.jsonl", lines), tmp_path / "c.json", "--recall", "0.5")) == 0


def test_queries_of_a_folder_without_a_relevant_document_count(tmp_path, capsys):
    folder = tmp_path / "beir"
    shutil.copytree(SAMPLE, folder)
    qrels = folder / "qrels/test.tsv"
    head, *judged = qrels.read_text(encoding="utf-8").splitlines()
    first = judged[0].split("\t")[0]
    others = [line.rpartition("\t")[0] + "\t0" if line.split("\t")[0] == first else line for line in judged]
    qrels.write_text("\n".join([head, *others]) + "\n", encoding="utf-8")
    assert main(words(folder, tmp_path / "c.json", "--precision", "0.3", "--depth", "3", "--json", *SHORT)) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["guarantee"]["lists"] == 20
    assert "left out" not in printed.err


FAULTS = {
    "one class": (relabelled(1), [], 5, "labels of one class only: all 48 documents of 24 lists are relevant"),
    "contradiction": (
        [*rows(), {**next(rows()), "label": 0}],
        [],
        5,
        "l.jsonl:49: labels contradict: 'fleas were studied",
    ),
    "none relevant": ([*unanswered(24)], [], 5, "all 48 documents of 24 lists are not relevant"),
    "few relevant": (
        [*unanswered(40), next(rows())],
        ["--precision", "0.5"],
        5,
        "documents of 10 lists that make the probabilities are not relevant",
    ),
    "few lists": ([*rows(10)], ["--recall", "0.5"], 5, "calibration needs at least 20 judged lists, got 10"),
    "few of both": ([*rows(10)], [], 5, "and there are 5; judge about 38 lists"),
    "few for it": ([*rows()], [], 5, "and there are 12; judge about 38 lists"),
    "half for it": ([*rows(12), *unanswered(12)], [], 5, "judge about 76 lists"),
    "no file": (None, [], 4, "no such file or folder"),
    "empty": ([], [], 5, ""),
    "both": ([*rows()], ["--recall", "0.5", "--precision", "0.5"], 2, "--recall and --precision exclude each other"),
    "no share": ([*rows()], ["--recall", "95"], 2, "recall must be between 0 and 1"),
    "a folder's option": ([*rows()], ["--depth", "5"], 2, "--depth can only be told of a BEIR folder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_calibrated_is_one_line_and_no_file(tmp_path, capsys, fault):
    lines, more, code, message = FAULTS[fault]
    labels = tmp_path / "l.jsonl" if lines is None else write(tmp_path / "l.jsonl", lines)
    assert main(words(labels, tmp_path / "c.json", *more)) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "c.json").exists()


def test_an_output_that_is_the_input_or_no_json_is_refused(tmp_path, capsys):
    labels = write(tmp_path / "l.json", rows())
    assert main(words(labels, labels)) == 2
    assert main(words(labels, tmp_path / "c.txt")) == 2
    assert "--output must be a file that ends in .json" in capsys.readouterr().err
