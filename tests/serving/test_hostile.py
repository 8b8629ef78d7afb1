"""What one client sends costs the others nothing, and tells it nothing of the server."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("prometheus_client", reason="needs the serve extra")

import httpx
from pydantic import TypeAdapter, ValidationError
from starlette.testclient import TestClient

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.errors import SettingsError
from blockrank_rerank.ranking.results import RankedDocument, Ranking
from blockrank_rerank.serving import limits as limits_module
from blockrank_rerank.serving import log as log_module
from blockrank_rerank.serving import scheduler as scheduler_module
from blockrank_rerank.serving import tracing
from blockrank_rerank.serving.app import create_app
from blockrank_rerank.serving.limits import ServerLimits
from blockrank_rerank.serving.protocols.nvidia import NvidiaRequest
from blockrank_rerank.serving.protocols.tei import TeiOrRerankRequest
from blockrank_rerank.serving.scheduler import Closed, Job, Lane, Overloaded, Scheduler
from blockrank_rerank.serving.turn import RankRequest, Served
from tests.serving.conftest import DOCUMENTS, QUERY, on_loopback
from tests.tiny_models import CONFIG, PROMPT, save_model

BODY = {"query": QUERY, "documents": DOCUMENTS}


@pytest.fixture(scope="module")
def client(ranker):
    with TestClient(create_app(ranker)) as client:
        yield client


@pytest.mark.parametrize(
    ("form", "body"),
    [
        (TeiOrRerankRequest, {"query": QUERY, "documents": [0] * 1000}),
        (TeiOrRerankRequest, {"query": QUERY, "texts": [0] * 1000}),
        (NvidiaRequest, {"query": {"text": QUERY}, "passages": [0] * 1000}),
    ],
)
def test_of_a_list_of_faults_only_the_first_is_collected(form, body):
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(form).validate_python(body)
    assert refused.value.error_count() <= 2


def test_one_client_leaves_half_of_the_places_to_others(ranker, monkeypatch):
    begun, go = threading.Event(), threading.Event()

    def rank_together(ranker, requests):
        begun.set()
        assert go.wait(120)
        yield from ((number, Served(Ranking(), 0)) for number, _ in enumerate(requests))

    monkeypatch.setattr(scheduler_module, "rank_together", rank_together)
    scheduler = Scheduler(ranker, 4)
    try:
        jobs = [scheduler.submit(RankRequest(QUERY, DOCUMENTS), "flood")]
        assert begun.wait(120)
        jobs += [scheduler.submit(RankRequest(QUERY, DOCUMENTS), "flood") for _ in range(2)]
        with pytest.raises(Overloaded, match="2 requests of this client are waiting"):
            scheduler.submit(RankRequest(QUERY, DOCUMENTS), "flood")
        scheduler.cancel(jobs.pop())
        jobs += [scheduler.submit(RankRequest(QUERY, DOCUMENTS), name) for name in ("flood", "other", "third")]
        with pytest.raises(Overloaded, match="4 requests are waiting"):
            scheduler.submit(RankRequest(QUERY, DOCUMENTS), "fourth")
        go.set()
        assert all(job.future.result(120) for job in jobs)
        scheduler.submit(RankRequest(QUERY, DOCUMENTS), "flood").future.result(120)
    finally:
        go.set()
        scheduler.close()


def test_a_body_that_does_not_come_is_not_waited_for(ranker):
    with on_loopback(create_app(ranker, ServerLimits(seconds=0.3))) as address:
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port), timeout=120) as connection:
            connection.sendall(
                b"POST /v2/rerank HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
            )
            answer = b"".join(iter(lambda: connection.recv(4096), b""))  # until the server hangs up
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error_type"] == "Timeout"


def test_more_requests_than_may_be_under_way_are_told_so_and_idle_connections_are_none(ranker, monkeypatch):
    monkeypatch.setattr(limits_module, "OTHER_REQUESTS", 1)
    with on_loopback(create_app(ranker, ServerLimits(waiting=1))) as address:
        place = urlsplit(address)
        idle = [socket.create_connection((place.hostname, place.port)) for _ in range(4)]
        assert httpx.get(f"{address}/info", timeout=120).status_code == 200
        for connection in idle[:2]:
            connection.sendall(b"POST /v2/rerank HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        while (answer := httpx.get(f"{address}/info", timeout=120)).status_code == 200:
            time.sleep(0.01)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error_type"] == "Overloaded"
        assert httpx.get(f"{address}/health", timeout=120).status_code == 200
        for connection in idle:
            connection.close()
        while httpx.get(f"{address}/info", timeout=120).status_code != 200:
            time.sleep(0.01)


@pytest.mark.parametrize("error", [ValueError, TypeError])
def test_a_fault_of_the_server_is_logged_and_not_told(ranker, monkeypatch, capsys, error):
    def rank_together(ranker, requests):
        raise error("some text of a document")
        yield

    monkeypatch.setattr(scheduler_module, "rank_together", rank_together)
    with TestClient(create_app(ranker)) as client:
        answer = client.post("/v2/rerank", json=BODY)
    assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend")
    output = capsys.readouterr().err
    assert "some text" not in answer.text + output
    assert f'"event": "failure", "request_id": "{answer.headers["x-request-id"]}"' in output


def test_a_server_does_not_begin_with_settings_that_rank_nothing(tmp_path):
    config = replace(CONFIG, scoring_layer=0)
    ranker = BlockRankReranker.from_pretrained(save_model(tmp_path, "gemma2"), config=config, device="cpu")
    with (
        pytest.raises(SettingsError, match="scoring_layer 0 has a sliding window of 12"),
        TestClient(create_app(ranker)),
    ):
        pass


def test_the_log_says_which_settings_a_request_does_not_fit(tmp_path, capsys):
    prompt = replace(PROMPT, instruction="Documents:", document="|{text}", query="{query}", answer="")
    config = replace(CONFIG, query_offset=12, prompt=prompt)
    folder = save_model(tmp_path, "mistral-window")
    with TestClient(create_app(BlockRankReranker.from_pretrained(folder, config=config, device="cpu"))) as client:
        answer = client.post("/v2/rerank", json={"query": "heart", "documents": ["liver " * 50]})
    assert (answer.status_code, "SettingsError; the log says more" in answer.text) == (424, True)
    output = capsys.readouterr().err
    assert '"reason": "scoring_layer 2 has a sliding window of 12 positions' in output
    assert "liver" not in output


@pytest.mark.parametrize("value", ["1e999", "NaN", "[-1e999]", '{"a": NaN}'])
def test_a_number_that_json_cannot_say_is_not_returned(client, value):
    content = f'{{"query": "blood", "documents": ["sugar", {{"text": "a", "x": {value}}}], "return_documents": WISH}}'
    statuses = []
    for wish in ("true", "false"):
        body = content.replace("WISH", wish)
        answer = client.post("/v2/rerank", content=body, headers={"Content-Type": "application/json"})
        statuses.append((answer.status_code, answer.json().get("field")))
    assert statuses == [(422, "documents[1]"), (200, None)]


def test_a_document_that_is_nested_deep_makes_no_server_fail(client):
    for depth in range(940, 980):
        nested = "[" * depth + "]" * depth
        content = f'{{"query": "blood", "documents": [{{"text": "a", "x": {nested}}}], "return_documents": true}}'
        answer = client.post("/v2/rerank", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 400, 422), (depth, answer.status_code)


def test_what_comes_while_a_lane_closes_is_refused_and_not_lost():
    lane = Lane("closing", 1, lambda jobs: None)
    lane.close()
    with pytest.raises(Closed):
        lane.push(Job(RankRequest(QUERY, DOCUMENTS), "late", 1))


def test_a_log_that_nobody_reads_keeps_no_client_from_its_answer(ranker, monkeypatch):
    def print_line(text, *, error=False):
        raise BrokenPipeError

    monkeypatch.setattr(log_module, "print_line", print_line)
    with TestClient(create_app(ranker)) as client:
        assert client.post("/v2/rerank", json=BODY).status_code == 200


def test_a_key_may_have_any_characters(ranker):
    with TestClient(create_app(ranker, api_key="schlüssel")) as client:
        assert client.get("/info", headers={"Authorization": "Bearer schlüssel".encode()}).status_code == 200


@pytest.mark.parametrize("score_type", ["probability", "share"])
def test_passages_that_were_dropped_early_have_no_higher_logit_than_the_others(score_type):
    best = RankedDocument(index=0, score=0.9, raw_score=0.6, probability=0.65, text="a", truncated=False)
    dropped = RankedDocument(index=1, score=0.1, raw_score=6.6, text="b", truncated=False, pruned=True)
    if score_type == "share":
        best = replace(best, probability=None)
    form = NvidiaRequest.model_validate({"query": {"text": QUERY}, "passages": [{"text": "a"}, {"text": "b"}]})
    answer = form.answer(Served(Ranking([best, dropped]), 1), score_type, "any", "1")
    assert [row["index"] for row in answer["rankings"]] == [0, 1]
    assert answer["rankings"][0]["logit"] >= answer["rankings"][1]["logit"]


def test_a_span_of_what_failed_says_so_without_the_message(monkeypatch):
    trace = pytest.importorskip("opentelemetry.trace", reason="needs OpenTelemetry's API")

    class Span(trace.NonRecordingSpan):
        statuses: ClassVar = []

        def is_recording(self):
            return True

        def set_status(self, status, description=None):
            self.statuses.append((status, description))

    class Tracer(trace.NoOpTracer):
        def start_as_current_span(self, name, context=None, **wishes):
            return trace.use_span(Span(trace.INVALID_SPAN_CONTEXT), **wishes)

    monkeypatch.setattr(tracing.trace, "get_tracer", lambda name: Tracer())
    with pytest.raises(ValueError, match="some text"), tracing.rerank_span({}):
        raise ValueError("some text")
    assert Span.statuses == [(trace.StatusCode.ERROR, None)]
