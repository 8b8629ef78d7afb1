"""What clients send and read, and what they are told when there is nothing to read."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("prometheus_client", reason="needs the serve extra")

import httpx
from starlette.testclient import TestClient

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.serving import scheduler as scheduler_module
from blockrank_rerank.serving.app import create_app
from blockrank_rerank.serving.limits import ServerLimits
from tests.serving.conftest import DOCUMENTS, QUERY, on_loopback
from tests.tiny_models import CONFIG, save_model

BODY = {"query": QUERY, "documents": DOCUMENTS}
TEI = {"query": QUERY, "texts": DOCUMENTS}
KEY = "very secret"


@pytest.fixture(scope="module")
def client(ranker):
    limits = ServerLimits(documents=8, body_bytes=50_000)
    with TestClient(create_app(ranker, limits)) as client:
        yield client


@pytest.fixture(scope="module")
def expected(ranker):
    return ranker.rank(QUERY, DOCUMENTS)


def test_the_answer_has_probabilities_best_first_where_each_client_looks(client, expected):
    for path in ("/v2/rerank", "/v1/rerank", "/rerank"):
        answer = client.post(path, json=BODY).json()
        assert answer["results"] == answer["data"]
        assert [row["index"] for row in answer["results"]] == [document.index for document in expected]
        scores = [row["relevance_score"] for row in answer["results"]]
        assert scores == pytest.approx([document.probability for document in expected], abs=1e-5)
        assert [row["share"] for row in answer["results"]] == pytest.approx([d.score for d in expected], abs=1e-5)
        assert answer["answerable"] == pytest.approx(expected.answerable, abs=1e-5)
        assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 10
        assert answer["id"]
        assert answer["model"] == "default"
        assert "document" not in answer["results"][0]


def test_optional_fields_may_be_null_text_or_unknown(client):
    nothing = dict.fromkeys(["model", "top_n", "top_k", "return_documents", "max_tokens_per_doc", "raw_scores"])
    assert len(client.post("/v2/rerank", json=BODY | nothing).json()["results"]) == 3
    words = {"top_n": "2", "return_documents": "true", "model": "rerank-v3.5", "max_chunks_per_doc": 10, "priority": 0}
    found = client.post("/v1/rerank", json=BODY | words).json()["results"]
    assert [row["document"] for row in found] == [{"text": DOCUMENTS[row["index"]]} for row in found]
    assert len(found) == 2


@pytest.mark.parametrize(("limits", "count"), [({"top_k": 1}, 1), ({"top_n": 0}, 0), ({"top_n": 2, "top_k": 1}, 2)])
def test_top_n_and_top_k_keep_the_best(client, limits, count):
    assert len(client.post("/v2/rerank", json=BODY | limits).json()["results"]) == count


def test_objects_are_documents_and_come_back_as_they_were(client):
    documents = [{"text": "aspirin thins blood", "title": "drugs", "year": 1}, {"page_content": "concrete"}]
    answer = client.post("/v2/rerank", json={"query": QUERY, "documents": documents, "return_documents": True})
    assert [row["document"] for row in answer.json()["results"]] == documents


def test_an_answer_says_what_was_cut_and_what_the_query_looked_at(client):
    wishes = {"max_tokens_per_doc": 2, "highlights": True}
    rows = client.post("/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS[:2], **wishes}).json()["results"]
    assert [row["truncated"] for row in rows] == [True, True]
    assert {row["highlights"][0]["text"] for row in rows} <= {"the liver", "aspirin thins", "aspirin thin", "aspi"}
    assert "highlights" not in client.post("/v2/rerank", json=BODY).json()["results"][0]


def test_an_answer_says_how_far_a_document_was_read(client):
    documents = ["aspirin thins blood", "aspirin " + "🫀 " * 9]
    rows = client.post("/v2/rerank", json={"query": QUERY, "documents": documents}).json()["results"]
    told = {row["index"]: row for row in rows}
    assert "unreadable" not in told[0]
    assert told[1]["unreadable"] > 0.5
    pruning = BlockRankReranker.from_pretrained(device="cpu", dtype="float32", prune={2: 1})
    with TestClient(create_app(pruning)) as other:
        rows = other.post("/v2/rerank", json=BODY).json()["results"]
    assert [row.get("layers_read") for row in rows] == [None, 2, 2]


def test_a_long_document_says_which_passage_was_scored(client):
    documents = ["concrete is cheap. " * 300 + "aspirin thins blood. " * 20, "sugar"]
    row = client.post("/v2/rerank", json={"query": QUERY, "documents": documents}).json()["results"][0]
    start, end = row["passage"]
    assert "aspirin" in documents[0][start:end]


def test_raw_scores_are_raw(client, expected):
    raw = pytest.approx(sorted((document.raw_score for document in expected), reverse=True), abs=1e-4)
    cohere = client.post("/v2/rerank", json=BODY | {"raw_scores": "true"}).json()["results"]
    tei = client.post("/rerank", json=TEI | {"raw_scores": True}).json()
    assert [row["relevance_score"] for row in cohere] == raw
    assert [row["score"] for row in tei] == raw


def test_clients_of_tei_get_a_bare_list(client, expected):
    rows = client.post("/rerank", json=TEI | {"truncate": True, "truncation_direction": "right"}).json()
    assert [row["score"] for row in rows] == pytest.approx([d.probability for d in expected], abs=1e-5)
    assert "text" not in rows[0]
    rows = client.post("/rerank", json=TEI | {"return_text": True}).json()
    assert [row["text"] for row in rows] == [DOCUMENTS[row["index"]] for row in rows]


def test_a_text_that_is_longer_than_one_pass_is_ranked_by_passages_whatever_tei_is_told_to_truncate(client):
    body = {"query": QUERY, "texts": ["concrete is cheap. " * 300 + "aspirin thins blood. " * 20, "sugar"]}
    plain = client.post("/rerank", json=body).json()
    assert plain[0]["passage"][0] > 0
    for wish in ({"truncate": "true"}, {"truncate": False, "truncation_direction": "Left"}, {"truncate": None}):
        assert client.post("/rerank", json=body | wish).json() == plain


def test_documents_that_are_null_leave_the_form_of_tei(client):
    assert client.post("/rerank", json=TEI | {"documents": None}).json() == client.post("/rerank", json=TEI).json()
    assert client.post("/rerank", json=BODY | {"texts": None}).json()["results"]


def test_clients_of_nvidia_get_log_odds(client, expected):
    passages = [{"text": text} for text in DOCUMENTS]
    answer = client.post("/v1/ranking", json={"query": {"text": QUERY}, "passages": passages}).json()
    odds = [1 / (1 + math.exp(-row["logit"])) for row in answer["rankings"]]
    assert odds == pytest.approx([document.probability for document in expected], abs=1e-5)
    assert answer["answerable"] == pytest.approx(expected.answerable, abs=1e-5)


def test_a_model_without_probabilities_answers_with_shares_and_says_so(tmp_path, capsys):
    from blockrank_rerank import BlockRankReranker

    ranker = BlockRankReranker.from_pretrained(save_model(tmp_path, "llama"), config=CONFIG)
    with TestClient(create_app(ranker)) as client:
        rows = client.post("/v2/rerank", json=BODY).json()["results"]
        assert sum(row["relevance_score"] for row in rows) == pytest.approx(1)
        assert client.get("/info").json()["score"] == "share"
        assert client.get("/info").json()["model_id"] == client.get("/v1/models").json()["data"][0]["id"]
        assert str(tmp_path.parent) not in client.post("/v2/rerank", json=BODY).text + client.get("/info").text
    assert '"score": "share"' in capsys.readouterr().err


def test_lists_without_documents_are_answered_without_rows(client):
    assert client.post("/v2/rerank", json={"query": QUERY, "documents": []}).json()["results"] == []
    assert client.post("/rerank", json={"query": QUERY, "texts": []}).json() == []


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v2/rerank", {"documents": DOCUMENTS}, "query"),
        ("/v2/rerank", {"query": "", "documents": DOCUMENTS}, "query"),
        ("/v2/rerank", {"query": 1, "documents": DOCUMENTS}, "query"),
        ("/v2/rerank", {"query": "word " * 4000, "documents": DOCUMENTS}, "query"),
        ("/v2/rerank", {"query": QUERY}, "documents"),
        ("/v2/rerank", {"query": QUERY, "documents": "a"}, "documents"),
        ("/v2/rerank", {"query": QUERY, "documents": ["a", 1]}, "documents[1]"),
        ("/v2/rerank", {"query": QUERY, "documents": ["a", None]}, "documents[1]"),
        ("/v2/rerank", {"query": QUERY, "documents": ["a", {}]}, "documents[1]"),
        ("/v2/rerank", {"query": QUERY, "documents": [{"text": "a", "title": 1}]}, "documents[0]"),
        ("/v2/rerank", BODY | {"top_n": -1}, "top_n"),
        ("/v2/rerank", BODY | {"top_n": "many"}, "top_n"),
        ("/v2/rerank", BODY | {"top_n": False}, "top_n"),
        ("/v2/rerank", BODY | {"top_k": True}, "top_k"),
        ("/v2/rerank", BODY | {"max_tokens_per_doc": True}, "max_tokens_per_doc"),
        ("/v2/rerank", BODY | {"return_documents": "perhaps"}, "return_documents"),
        ("/v2/rerank", BODY | {"max_tokens_per_doc": 0}, "max_tokens_per_doc"),
        ("/rerank", {"query": QUERY}, "texts"),
        ("/rerank", {"query": QUERY, "texts": ["a", 1]}, "texts[1]"),
        ("/rerank", {"query": 1, "documents": ["a"]}, "query"),
        ("/v1/ranking", {"query": QUERY, "passages": [{"text": "a"}]}, "query"),
        ("/v1/ranking", {"query": {"text": QUERY}, "passages": [{}]}, "passages[0].text"),
    ],
)
def test_what_cannot_be_ranked_is_refused_with_the_field(client, path, body, field):
    answer = client.post(path, json=body)
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert answer.json()["error_type"] == "Validation"
    assert answer.json()["error"] == answer.json()["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"documents": ["a", 1]}, "documents[1]: Input should be a text or an object, got int"),
        ({"documents": "a"}, "documents: Input should be a valid list, got str"),
        ({"query": None}, "query: Input should be a valid string, got NoneType"),
        ({"top_n": False}, "top_n: Input should be a valid integer, got bool"),
    ],
)
def test_a_refusal_says_what_should_have_come_and_what_came(client, body, message):
    assert client.post("/v2/rerank", json=BODY | body).json()["message"] == message


def test_an_error_repeats_no_text(client):
    for field, value in (("query", ["secret words"]), ("top_n", "secret words"), ("documents", [["secret words"]])):
        answer = client.post("/v2/rerank", json=BODY | {field: value})
        assert answer.status_code == 422
        assert "secret" not in answer.text


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 20_000, b"1" * 5000, b"null", b'"text"', b"NaN"])
def test_what_is_no_object_is_refused(client, content):
    answer = client.post("/v2/rerank", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]


def test_lone_surrogates_go_in_and_out(client):
    content = rb'{"query": "\ud800 blood", "documents": ["\udfff sugar"], "return_documents": true}'
    answer = client.post("/v2/rerank", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 422)
    assert answer.json()


def test_too_many_documents_and_too_long_bodies_are_too_large(client):
    answer = client.post("/v2/rerank", json={"query": QUERY, "documents": ["a"] * 9})
    assert answer.status_code == 413
    assert answer.json()["error"] == "9 documents, more than the 8 of a request (--max-documents)"
    long = json.dumps({"query": QUERY, "documents": ["a" * 60_000]}).encode()
    pieces = (long[start : start + 10_000] for start in range(0, len(long), 10_000))  # of no declared length
    for content in (long, pieces):
        answer = client.post("/v2/rerank", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert answer.json()["error_type"] == "Validation"


def test_other_pages_and_methods_are_refused_in_the_same_form(client):
    assert client.get("/v3/rerank").status_code == 404
    assert client.get("/v2/rerank").status_code == 405
    assert client.get("/v2/rerank").json()["error"]


def test_information_has_model_limits_and_state(client):
    info = client.get("/info").json()
    assert info["model_id"] == "default"
    assert info["max_client_batch_size"] == 8
    assert info["score"] == "probability"
    assert "threshold" not in info
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["default"]
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    assert client.head("/health").status_code == client.head("/ready").status_code == 200
    assert "/v2/rerank" in client.get("/openapi.json").json()["paths"]


def test_metrics_count_requests_documents_and_tokens(ranker):
    with TestClient(create_app(ranker)) as client:
        client.post("/v2/rerank", json=BODY)
        client.get("/somewhere")
        text = client.get("/metrics").text
    assert 'blockrank_requests_total{path="/v2/rerank",status="200"} 1.0' in text
    assert 'blockrank_requests_total{path="other",status="404"} 1.0' in text
    assert 'blockrank_documents_total{served_from="read"} 3.0' in text
    assert "blockrank_waiting_requests 0.0" in text


def test_a_request_keeps_its_id_and_gets_one_where_it_has_none(client):
    answer = client.post("/v2/rerank", json=BODY, headers={"X-Request-ID": "mine-1"})
    assert answer.headers["x-request-id"] == answer.json()["id"] == "mine-1"
    strange = client.get("/health", headers={"X-Request-ID": "a b"})
    assert len(strange.headers["x-request-id"]) == 32


def test_the_log_has_numbers_and_neither_texts_nor_keys(ranker, capsys):
    with TestClient(create_app(ranker, api_key=KEY)) as client:
        client.headers = {"Authorization": f"Bearer {KEY}"}
        client.post("/v2/rerank", json=BODY)
        client.post("/v2/rerank?q=blood", json=BODY, headers={"Authorization": "Bearer guessed"})
        client.post("/v2/rerank", json={"query": "", "documents": DOCUMENTS})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [line["status"] for line in requests] == [200, 401, 422]
    assert requests[0]["documents"] == requests[0]["read"] == 3
    assert requests[0]["tokens"] > 10
    logged = json.dumps(lines)
    assert not any(word in logged for word in (KEY, "guessed", "blood", "sugar"))


def test_without_the_key_only_the_state_is_told(ranker):
    with TestClient(create_app(ranker, api_key=KEY)) as client:
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Bearer ü"}):
            headers = {name: value.encode() for name, value in given.items()}
            refusal = client.post("/v2/rerank", json=BODY, headers=headers)
            assert refusal.status_code == 401
            assert refusal.json()["error_type"] == "Unauthorized"
            assert client.get("/info", headers=headers).status_code == 401
            assert client.get("/ready", headers=headers).status_code == 200
        assert client.post("/v2/rerank", json=BODY, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_a_model_that_fails_is_named_without_what_it_says(ranker, monkeypatch, capsys):
    def rank_together(ranker, requests):
        raise RuntimeError("some text of a document")
        yield

    monkeypatch.setattr(scheduler_module, "rank_together", rank_together)
    with TestClient(create_app(ranker)) as client:
        answer = client.post("/v2/rerank", json=BODY)
    assert answer.status_code == 424
    assert answer.json()["error_type"] == "Backend"
    assert "RuntimeError" in answer.text
    output = answer.text + capsys.readouterr().err
    assert "some text" not in output
    assert "test_http.py" in output


def test_before_it_starts_a_server_has_no_model(ranker):
    client = TestClient(create_app(ranker))
    assert client.post("/v2/rerank", json=BODY).status_code == 424
    assert client.get("/ready").status_code == 503


@pytest.fixture
def held(monkeypatch):
    """The model begins, and goes on when it is told to."""
    begun, go, real = threading.Event(), threading.Event(), scheduler_module.rank_together

    def rank_together(ranker, requests):
        begun.set()
        assert go.wait(120)
        yield from real(ranker, requests)

    monkeypatch.setattr(scheduler_module, "rank_together", rank_together)
    yield SimpleNamespace(begun=begun, go=go)
    go.set()


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def metric(address, name):
    return httpx.get(f"{address}/metrics").text.partition(f"\n{name} ")[2].split()[0]


def waiting(address):
    return int(float(metric(address, "blockrank_waiting_requests")))


def test_too_many_requests_are_told_when_to_come_back_and_the_others_are_answered(ranker, held):
    with on_loopback(create_app(ranker, ServerLimits(waiting=4))) as address, ThreadPoolExecutor(3) as pool:

        def post():
            return httpx.post(f"{address}/v2/rerank", json=BODY, timeout=120)

        accepted = [pool.submit(post)]
        assert held.begun.wait(120)
        accepted += [pool.submit(post) for _ in range(2)]
        wait_until(lambda: waiting(address) == 2)
        refused = post()
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error_type"] == "Overloaded"
        assert "2 requests of this client are waiting" in refused.json()["error"]
        held.go.set()
        assert [answer.result().status_code for answer in accepted] == [200, 200, 200]


def test_what_takes_too_long_is_given_up(ranker, held):
    with on_loopback(create_app(ranker, ServerLimits(seconds=0.2))) as address:
        answer = httpx.post(f"{address}/v2/rerank", json=BODY, timeout=120)
        assert answer.status_code == 504
        assert answer.json()["error_type"] == "Timeout"
        assert waiting(address) == 0
        late = httpx.post(f"{address}/v2/rerank", json=BODY, timeout=120)
        assert late.status_code == 504
        assert float(metric(address, "blockrank_waited_seconds_sum")) >= 0.15
        held.go.set()


def test_a_client_that_goes_away_leaves_the_queue(ranker, held):
    with on_loopback(create_app(ranker)) as address:

        async def leave_both():
            async with httpx.AsyncClient() as client:
                posts = [asyncio.create_task(client.post(f"{address}/v2/rerank", json=BODY))]
                await asyncio.to_thread(held.begun.wait, 120)
                posts.append(asyncio.create_task(client.post(f"{address}/v2/rerank", json=BODY)))
                await asyncio.to_thread(wait_until, lambda: waiting(address) == 1)
                for post in posts:
                    post.cancel()
                await asyncio.gather(*posts, return_exceptions=True)

        asyncio.run(leave_both())
        wait_until(lambda: waiting(address) == 0)
        held.go.set()


def test_many_clients_get_the_answers_of_one_after_the_other(ranker):
    queries = [f"{word} {number}" for number, word in product(range(2), ("blood", "sugar", "concrete", "aspirin"))]
    lists = [DOCUMENTS, DOCUMENTS[::-1], [*DOCUMENTS, "sugar cubes dissolve"], DOCUMENTS[1:]]
    requests = list(product(queries, lists))
    alone = [{d.index: d.probability for d in ranker.rank(query, documents)} for query, documents in requests]
    with on_loopback(create_app(ranker)) as address, httpx.Client(timeout=120) as client:

        def post(request):
            answer = client.post(f"{address}/v2/rerank", json={"query": request[0], "documents": request[1]})
            return {row["index"]: row["relevance_score"] for row in answer.json()["results"]}

        with ThreadPoolExecutor(16) as pool:
            together = list(pool.map(post, requests))
    for found, expected in zip(together, alone, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_ranking_is_a_span_under_that_of_its_caller(ranker, monkeypatch):
    pytest.importorskip("opentelemetry.sdk", reason="needs the test-serve extra")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from blockrank_rerank.serving import tracing

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing.trace, "get_tracer", provider.get_tracer)
    caller = "0af7651916cd43dd8448eb211c80319c"
    with TestClient(create_app(ranker)) as client:
        client.post("/v2/rerank", json=BODY, headers={"traceparent": f"00-{caller}-b7ad6b7169203331-01"})
    (span,) = exporter.get_finished_spans()
    assert span.name == "rerank"
    assert span.context.trace_id == int(caller, 16)
    assert span.attributes["blockrank.documents"] == span.attributes["blockrank.read"] == 3
