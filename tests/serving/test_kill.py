"""A server that is killed leaves its store as it was, and another one answers from it."""

from __future__ import annotations

import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("uvicorn", reason="needs the serve extra")

import httpx

from blockrank_rerank import StoredDocuments
from blockrank_rerank.states.store import StateStore
from tests.serving.conftest import DOCUMENTS, QUERY
from tests.serving.test_command import started

CORPUS = [{"_id": f"d{number}", "text": f"{DOCUMENTS[number % 3]} {number}"} for number in range(60)]
IDS = [{"id": document["_id"]} for document in CORPUS]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_kill_under_load_while_the_store_grows_spoils_nothing_in_it(ranker, tmp_path):
    folder = tmp_path / "states"
    ranker.prepare_store(folder, CORPUS[:30])
    words = ("--device", "cpu", "--dtype", "float32", "--store", str(folder))
    answered = threading.Event()

    def load(url):
        while True:
            try:
                answer = httpx.post(f"{url}/v2/rerank", json={"query": QUERY, "documents": IDS[:30]}, timeout=120)
            except httpx.HTTPError:
                return
            assert answer.status_code == 200
            answered.set()

    with started(*words) as (process, url), ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load, url) for _ in range(4)]
        assert answered.wait(120)
        ranker.prepare_store(folder, CORPUS)
        process.send_signal(signal.SIGKILL)
        for it in loads:
            it.result(120)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [document.id for document in StoredDocuments(folder)] == [document["_id"] for document in CORPUS]
        store = StateStore(folder, ranker.engine.fingerprint)
        assert all(store.get(document["text"]) for document in CORPUS)
    with started(*words) as (_, url):
        answer = httpx.post(f"{url}/v2/rerank", json={"query": QUERY, "documents": IDS}, timeout=120)
    assert {row["served_from"] for row in answer.json()["results"]} == {"stored"}
    assert {row["id"] for row in answer.json()["results"]} == {document["_id"] for document in CORPUS}
