"""What a worker of a fleet does with its rows, and what counts as finished: no cluster is needed for it."""

from __future__ import annotations

import json
import pickle

import pytest

pytest.importorskip("pyarrow", reason="needs the train or the ray extra")

import pyarrow as pa

from blockrank_rerank.errors import DataError
from blockrank_rerank.serving.ray.job_folder import open_job, read_parts, row_digest, write_part
from blockrank_rerank.serving.ray.table_reranker import TableReranker
from tests.serving.conftest import DOCUMENTS, QUERY

OPTIONS = {"device": "cpu", "dtype": "float32"}
NO_LIMITS = {"top_k": None, "threshold": None, "min_probability": None}
ROWS = [
    {"id": "q1", "query": QUERY, "documents": [{"id": f"d{n}", "text": text} for n, text in enumerate(DOCUMENTS)]},
    {"id": "q2", "query": "sugar", "documents": [{"id": "d0", "title": "Liver", "text": DOCUMENTS[0]}]},
    {"id": "q3", "query": "nothing was found for it", "documents": []},
]


@pytest.fixture
def job(tmp_path):
    open_job(tmp_path / "job", OPTIONS, NO_LIMITS)
    return tmp_path / "job"


def worker(job, limits=NO_LIMITS):
    finished = {row["id"]: row["digest"] for row in read_parts(job)}
    return TableReranker(job, finished, limits, OPTIONS)


def ranked(worker, rows):
    """What came back of a batch: rows and tokens, or the error."""
    (done,) = worker(pa.Table.from_pylist(rows)).to_pylist()
    if done["error"] is not None:
        raise pickle.loads(done["error"])
    return done["rows"], done["tokens"]


def test_rankings_are_those_of_one_process(ranker, job):
    rows, tokens = ranked(worker(job), ROWS)
    parts = {row["id"]: row for row in read_parts(job)}
    found = {name: row["ranking"] for name, row in parts.items()}
    assert (rows, found.keys()) == (3, {"q1", "q2", "q3"})
    assert parts["q3"]["answerable"] == ranker.rank(QUERY, []).answerable
    assert tokens > 0
    for row in ROWS:
        alone = ranker.rank(row["query"], row["documents"])
        assert [(d["index"], d["id"]) for d in found[row["id"]]] == [(d.index, d.id) for d in alone]
        assert [d["probability"] for d in found[row["id"]]] == pytest.approx([d.probability for d in alone], abs=1e-5)
        assert parts[row["id"]]["answerable"] == pytest.approx(alone.answerable, abs=1e-5)


def test_rows_that_are_finished_are_not_read_again_and_new_ones_are(job):
    assert ranked(worker(job), ROWS[:2])[1] > 0
    again = worker(job)
    assert ranked(again, ROWS[:2]) == (2, 0)
    assert "_ranker" not in vars(again)  # no model was loaded
    assert ranked(again, ROWS)[0] == 3
    assert sorted(row["id"] for row in read_parts(job)) == ["q1", "q2", "q3"]


def test_a_row_that_changed_is_not_taken_for_the_one_that_is_finished(job):
    ranked(worker(job), ROWS[:1])
    with pytest.raises(DataError, match="query 'q1' has another text or other documents"):
        ranked(worker(job), [{**ROWS[0], "documents": ROWS[0]["documents"][:2]}])


def test_the_best_documents_are_kept_alone(job):
    ranked(worker(job, NO_LIMITS | {"top_k": 1}), ROWS[:1])
    (row,) = read_parts(job)
    assert [document["id"] for document in row["ranking"]] == ["d1"]


def test_documents_that_are_likely_enough_are_kept_alone(ranker, job):
    least = ranker.rank(QUERY, DOCUMENTS)[0].probability - 1e-4
    ranked(worker(job, NO_LIMITS | {"min_probability": least}), ROWS[:1])
    (row,) = read_parts(job)
    assert [document["id"] for document in row["ranking"]] == ["d1"]


def test_a_row_says_how_far_its_documents_were_read(job):
    pruning = TableReranker(job, {}, NO_LIMITS, OPTIONS | {"prune": {2: 1}})
    ranked(pruning, ROWS[:1])
    (row,) = read_parts(job)
    assert [document["layers_read"] for document in row["ranking"]] == [None, 2, 2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 7, "query": " ", "documents": DOCUMENTS}, "query '7': query must not be empty"),
        ({"id": 7, "query": QUERY, "documents": None}, "query '7': documents must be a list of documents"),
        (
            {"id": 7, "query": QUERY, "documents": [{"id": "d9", "title": "no text"}]},
            r"query '7': documents\[0\] needs",
        ),
    ],
    ids=["empty-query", "no-documents", "no-text"],
)
def test_a_row_that_cannot_be_ranked_is_named_and_nothing_of_its_batch_counts(job, row, message):
    with pytest.raises(DataError, match=message):
        ranked(worker(job), [row, {**ROWS[0], "id": 8, "documents": row["documents"] or DOCUMENTS}])
    assert not [*read_parts(job)]


def test_what_the_model_fails_with_comes_back_as_it_is(ranker, job, monkeypatch):
    def fail(*_, **__):
        raise FloatingPointError("scores are not finite")

    monkeypatch.setattr(type(ranker), "rank_batch", fail)
    with pytest.raises(FloatingPointError, match="scores are not finite"):
        ranked(worker(job), ROWS)


def test_what_is_half_written_does_not_count(job):
    row = {"id": "q1", "digest": row_digest(QUERY, DOCUMENTS), "ranking": []}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_part(job, [row, {**row, "id": "q2", "ranking": [{"score": float("nan")}]}])
    (job / "parts" / ".0123.jsonl.77.tmp").write_text(json.dumps(row)[:20])  # its machine went down
    assert not [*read_parts(job)]


def test_a_part_that_is_damaged_is_named_with_what_to_do(job):
    (job / "parts" / "0123.jsonl").write_text('{"id": "q1"}\n')
    with pytest.raises(DataError, match=r"0123\.jsonl:1: damaged; delete this file"):
        [*read_parts(job)]


def test_a_job_goes_on_elsewhere_and_with_other_settings_it_is_another_one(tmp_path, job):
    open_job(job, {"device": "cuda", "dtype": "float32", "cache": "1GB", "model": "default"}, NO_LIMITS)
    with pytest.raises(ValueError, match=r"job with top_k None and not 3"):
        open_job(job, OPTIONS, NO_LIMITS | {"top_k": 3})
    with pytest.raises(ValueError, match=r"job with dtype 'float32' and not None, prune None and not {'2': 50}"):
        open_job(job, {"prune": {2: 50}}, NO_LIMITS)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match="notes is neither the folder of a job nor an empty one"):
        open_job(tmp_path / "notes", OPTIONS, NO_LIMITS)
