"""Two workers of a Ray cluster on this machine rank as one process does, also where one dies or the job is cut off."""

from __future__ import annotations

import json
import os
import socket
import sys
import time

import pytest

pytest.importorskip("ray.data", reason="needs the ray extra, which test-serve brings")
pytest.importorskip("ray.serve", reason="needs the ray extra, which test-serve brings")

import httpx
import ray
from ray import serve

from blockrank_rerank.cli.app import main
from blockrank_rerank.errors import DataError
from blockrank_rerank.formats import read_run
from blockrank_rerank.serving.ray import table as table_module
from blockrank_rerank.serving.ray.deployment import app
from blockrank_rerank.serving.ray.job_folder import read_parts
from blockrank_rerank.serving.ray.table import BATCH_ROWS, rerank_table
from blockrank_rerank.serving.ray.table_reranker import TableReranker
from tests.serving.conftest import DOCUMENTS, QUERY

OPTIONS = {"device": "cpu", "dtype": "float32"}
ROWS = [{"id": f"q{n}", "query": f"{QUERY} {n}", "documents": DOCUMENTS} for n in range(2 * BATCH_ROWS)]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two workers; they find this checkout as this process does."""
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": environment})
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def table(rows=ROWS):
    return ray.data.from_items(rows, override_num_blocks=2 if len(rows) > 1 else None)


class DyingReranker(TableReranker):
    """A worker that dies with the first batch of all."""

    def __call__(self, batch):
        try:
            (self._folder / "died").touch(exist_ok=False)
        except FileExistsError:
            return super().__call__(batch)
        os._exit(1)


class WaitingReranker(TableReranker):
    """A worker that begins once another one has a batch too."""

    def __call__(self, batch):
        (self._folder / f"worker-{os.getpid()}").touch()
        latest = time.monotonic() + 300
        while len([*self._folder.glob("worker-*")]) < 2 and time.monotonic() < latest:
            time.sleep(0.05)
        return super().__call__(batch)


@pytest.mark.parametrize("kind", [WaitingReranker, DyingReranker], ids=["both-live", "one-dies"])
def test_two_workers_rank_as_one_process_does(ranker, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(table_module, "TableReranker", kind)
    done = rerank_table(table(), tmp_path / "job", workers=2, **OPTIONS)
    assert (done.rows, done.rows_before) == (len(ROWS), 0)
    if kind is WaitingReranker:
        assert len([*done.folder.glob("worker-*")]) == 2
    found = {row["id"]: row["ranking"] for row in read_parts(done.folder)}
    assert len(found) == len(ROWS)
    for row, alone in zip(ROWS, ranker.rank_batch([(row["query"], DOCUMENTS) for row in ROWS]), strict=True):
        assert [d["index"] for d in found[row["id"]]] == [d.index for d in alone]
        assert [d["probability"] for d in found[row["id"]]] == pytest.approx([d.probability for d in alone], abs=1e-5)


def test_a_job_that_was_cut_off_goes_on_where_it_was(tmp_path):
    def stop(rows, tokens):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rerank_table(table(), tmp_path / "job", on_progress=stop, **OPTIONS)
    before = len([*read_parts(tmp_path / "job")])
    assert before >= BATCH_ROWS
    done = rerank_table(table(), tmp_path / "job", **OPTIONS)
    assert done.rows_before >= before
    assert len([*read_parts(tmp_path / "job")]) == done.rows == len(ROWS)
    assert rerank_table(table(), tmp_path / "job", **OPTIONS).tokens == 0


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        ([], {}, DataError, "the table is empty: expected a row for each query"),
        ([{"id": 1, "query": QUERY}], {}, DataError, "the table has no column 'documents'"),
        ([{**ROWS[0], "id": None}], {}, DataError, "1 rows of the table have no id"),
        (ROWS[:1] * 2, {}, DataError, "1 ids stand in several rows of the table: 'q0'"),
        ([{**ROWS[0], "query": " "}], {}, DataError, "query 'q0': query must not be empty"),
        (ROWS[:1], {"deivce": "cpu"}, TypeError, "deivce"),
        (ROWS[:1], {"workers": 0}, ValueError, "workers must be a whole number of at least 1, got 0"),
        (ROWS[:1], {"top_k": -1}, ValueError, "top_k must be a whole number of at least 0"),
        (ROWS[:1], {"min_probability": 2}, ValueError, "min_probability must be a number in 0..1"),
        (ROWS[:1], {"model": "/no/such/folder"}, FileNotFoundError, "no/such/folder"),
    ],
    ids=[
        "empty",
        "no-column",
        "no-id",
        "same-ids",
        "empty-query",
        "option",
        "workers",
        "top-k",
        "probability",
        "model",
    ],
)
def test_what_cannot_be_ranked_is_told_in_one_line(tmp_path, rows, options, error, message):
    with pytest.raises(error, match=message) as refusal:
        rerank_table(table(rows), tmp_path / "job", **OPTIONS | options)
    assert "\n" not in str(refusal.value)


def test_the_command_reranks_a_run_on_the_fleet_as_it_does_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    corpus = [{"_id": f"d{n}", "title": "a title" * (n % 2), "text": text} for n, text in enumerate(DOCUMENTS)]
    queries = [{"_id": f"q{n}", "text": f"{QUERY} {n}"} for n in range(BATCH_ROWS + 1)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = [f"{q['_id']} Q0 {d['_id']} {n + 1} {9 - n} bm25\n" for q in queries for n, d in enumerate(corpus)]
    (tmp_path / "bm25.trec").write_text("".join(run))
    texts = ["--queries", "queries.jsonl", "--corpus", "corpus.jsonl", "--run", "bm25.trec"]
    words = ["rerank", *texts, "--device", "cpu", "--dtype", "float32"]
    assert main([*words, "--output", "alone.trec"]) == 0
    for _ in range(2):
        assert main([*words, "--output", "fleet.trec", "--fleet", "job", "--workers", "2"]) == 0
    assert "17 queries with 51 documents (0 truncated), 0 tokens" in capsys.readouterr().err.splitlines()[-1]
    alone, fleet = read_run("alone.trec"), read_run("fleet.trec")
    assert {query: [*ranking] for query, ranking in fleet.items()} == {query: [*r] for query, r in alone.items()}
    assert all(fleet[query] == pytest.approx(alone[query], abs=1e-5) for query in alone)


def test_replicas_answer_as_the_ranker_does(ranker):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        serve.run(app({**OPTIONS, "min_replicas": "2", "max_replicas": 2, "documents": 3}), route_prefix="/")
        assert serve.status().applications["default"].deployments["Reranker"].replica_states == {"RUNNING": 2}
        alone = {document.index: document.probability for document in ranker.rank(QUERY, DOCUMENTS)}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            for _ in range(6):
                answer = client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS}).json()
                found = {row["index"]: row["relevance_score"] for row in answer["results"]}
                assert found == pytest.approx(alone, abs=1e-5)
            refusal = client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS * 2})
            assert (refusal.status_code, refusal.json()["error_type"]) == (413, "Validation")
    finally:
        serve.shutdown()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"cahce": "1GB"}, ValueError, "unknown settings cahce; did you mean cache?"),
        ({"cache": "much"}, ValueError, "cache must be a number of bytes"),
        ({"max_replicas": "many"}, ValueError, "max_replicas: Input should be a valid integer"),
        ({"min_replicas": 3}, ValueError, "max_replicas must be at least min_replicas, 3; got 1"),
        ({"seconds": 0}, ValueError, "seconds must be above 0"),
        ({"model": "/no/such/folder"}, FileNotFoundError, "no/such/folder"),
    ],
    ids=["name", "value", "word", "replicas", "limit", "model"],
)
def test_a_deployment_with_settings_that_cannot_be_used_is_refused_in_one_line(settings, error, message):
    with pytest.raises(error, match=message) as refusal:
        app(settings)
    assert "\n" not in str(refusal.value)
