"""TREC runs, read and written."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockrank_rerank.formats import DataError, read_run, write_run
from blockrank_rerank.formats.trec import strictly_falling
from tests.formats.refusals import refusal


def test_a_run_is_ranked_by_score_then_rank_then_first_appearance(put):
    lines = ["q Q0 c 3 1.0 t", "q Q0 low 1 0.5 t", "q Q0 b 2 1.0 t", "q Q0 d 3 1.0 t", "p Q0 x 1 -7 t"]
    run = read_run(put("r.trec", "\n".join(lines)))
    assert {query: list(ranking) for query, ranking in run.items()} == {
        "q": ["b", "c", "d", "low"],
        "p": ["x"],
    }
    assert run["q"]["low"] == 0.5


@pytest.mark.parametrize("names", [["b", "a", "c"], ["c", "b", "a"], ["10", "9", "1"]])
def test_documents_of_one_score_and_rank_keep_the_order_of_the_file_whatever_their_names(put, names):
    run = read_run(put("r.trec", "\n".join(f"q Q0 {name} 0 1.0 t" for name in names)))
    assert list(run["q"]) == names


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("q Q0 d 1 0.5", "expected 6 columns (query, Q0, document, rank, score, tag), got 5"),
        ("q Q0 d one 0.5 t", "expected an integer rank, got 'one'"),
        ("q Q0 d 1 high t", "expected a finite score, got 'high'"),
        ("q Q0 d 1 nan t", "expected a finite score, got 'nan'"),
        ("q Q0 d 1 -inf t", "expected a finite score, got '-inf'"),
        ("q Q0 a 2 0.1 t", "expected every document once per query, got 'a' again for query 'q'"),
    ],
)
def test_a_malformed_run_line_is_refused_with_file_and_line(put, line, found):
    assert refusal(read_run, put("r.trec", f"q Q0 a 1 0.9 t\n{line}\n")) == f"r.trec:2: {found}"


def test_scores_that_rise_with_the_ranks_of_every_query_are_told(put, recwarn):
    one, other = "q Q0 a 1 0.1 t\nq Q0 b 2 0.9 t\n", "r Q0 b 2 0.1 t\nr Q0 a 1 0.9 t\n"
    for content in (one + other, "r Q0 a 1 0 t\nr Q0 b 2 0 t\n", "r Q0 a 0 1 t\nr Q0 b 0 2 t\n", "r Q0 a 1 0 t\n"):
        read_run(put("a.trec", content))
    assert not list(recwarn)
    with pytest.warns(UserWarning, match=r"a\.trec: scores rise with the ranks in all of 1 queries, as distances do"):
        run = read_run(put("a.trec", one + "r Q0 a 1 0 t\n"))
    assert list(run["q"]) == ["b", "a"]


def test_an_empty_run_is_refused(put):
    assert refusal(read_run, put("r.trec", "")).startswith("r.trec: the run is empty")


def test_a_written_run_reads_back_in_the_same_order(tmp_path):
    run = {"q1": {"b": 0.5, "a": 0.25}, "q2": {"z": 1.0}}
    write_run(tmp_path / "out.trec", run)
    assert (tmp_path / "out.trec").read_text() == (
        "q1 Q0 b 1 0.5 blockrank\nq1 Q0 a 2 0.25 blockrank\nq2 Q0 z 1 1.0 blockrank\n"
    )
    assert read_run(tmp_path / "out.trec") == run


float32s = st.floats(width=32, allow_nan=False, min_value=-(2.0**100), max_value=2.0**100)


@given(st.lists(float32s, min_size=1, max_size=20))
def test_distinct_scores_are_written_unchanged_and_ties_fall_strictly(scores):
    ordered = sorted(scores, reverse=True)
    written = [float(text) for text in strictly_falling(ordered)]
    assert all(above > below for above, below in itertools.pairwise(written))
    if len(set(ordered)) == len(ordered):
        assert [np.float32(value) for value in written] == [np.float32(value) for value in ordered]


def test_tied_scores_keep_the_ranking_in_tools_that_break_ties_by_document_id(tmp_path):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    documents = [f"d{i}" for i in range(50)]
    random.Random(0).shuffle(documents)
    for score in (0.0, 1e-8, 0.3, 1.0, 123.456):
        write_run(tmp_path / "out.trec", {"q": dict.fromkeys(documents, score)})
        written = pytrec_eval.parse_run((tmp_path / "out.trec").open())
        for rank, document in enumerate(documents, start=1):
            evaluator = pytrec_eval.RelevanceEvaluator({"q": {document: 1}}, {"recip_rank"})
            assert evaluator.evaluate(written)["q"]["recip_rank"] == pytest.approx(1 / rank)


def test_tied_zeros_do_not_turn_into_negative_scores():
    assert all(float(text) >= 0 for text in strictly_falling([0.0] * 5))


@pytest.mark.parametrize("score", [math.nan, math.inf, 1e300])
def test_a_score_that_a_run_cannot_hold_leaves_the_old_file_alone(tmp_path, score):
    path = tmp_path / "out.trec"
    path.write_text("old")
    with pytest.raises(DataError, match="expected finite single-precision scores"):
        write_run(path, {"good": {"a": 1.0}, "bad": {"a": score}})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("identifier", ["two words", "", "tab\t", "half\ud800pair", "no\u00a0break"])
def test_an_id_that_would_break_the_columns_is_refused_and_nothing_is_written(tmp_path, identifier):
    with pytest.raises(DataError, match="cannot stand in a TREC run"):
        write_run(tmp_path / "out.trec", {"q": {identifier: 1.0}})
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_nothing_behind(tmp_path):
    class Interrupted(dict):
        def items(self):
            yield "q", {"a": 1.0}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_run(tmp_path / "out.trec", Interrupted(q={}))
    assert not list(tmp_path.iterdir())


def test_a_written_run_has_the_rights_that_the_umask_grants(tmp_path):
    write_run(tmp_path / "out.trec", {"q": {"a": 1.0}})
    (tmp_path / "plain").touch()
    assert (tmp_path / "out.trec").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_writing_through_a_link_replaces_the_file_behind_it(tmp_path):
    (tmp_path / "real.trec").write_text("old")
    (tmp_path / "link.trec").symlink_to("real.trec")
    write_run(tmp_path / "link.trec", {"q": {"a": 1.0}})
    assert (tmp_path / "link.trec").is_symlink()
    assert (tmp_path / "real.trec").read_text() == "q Q0 a 1 1.0 blockrank\n"
