"""Whatever a client sends, it is told what is wrong: no body makes the server fail."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="needs the serve extra")

from starlette.testclient import TestClient

from blockrank_rerank.serving.app import create_app
from blockrank_rerank.serving.limits import ServerLimits
from tests.serving.conftest import QUERY

PATHS = ("/v2/rerank", "/v1/rerank", "/rerank", "/v1/ranking")
FOUND = {200, 400, 413, 422}
"""Statuses of bodies that are ranked, no JSON, too large, or of another form."""

words = st.text(max_size=20) | st.sampled_from([QUERY, "", " ", "\ud800", "\x00", "true", "1"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=8
)
documents = st.lists(words | st.dictionaries(st.sampled_from(["text", "title", "content", "id"]), values), max_size=4)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "query": words | values,
        "documents": documents | values,
        "texts": st.lists(words, max_size=3) | values,
        "passages": st.lists(st.fixed_dictionaries({"text": words}), max_size=3) | values,
        "top_n": values,
        "top_k": st.integers(-1, 5) | values,
        "return_documents": values,
        "return_text": values,
        "max_tokens_per_doc": st.integers(0, 4) | values,
        "raw_scores": values,
        "highlights": values,
        "model": values,
    },
)


@pytest.fixture(scope="module")
def client(ranker):
    with TestClient(create_app(ranker, ServerLimits(documents=4, body_bytes=5_000))) as client:
        yield client


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PATHS), bodies | values)
def test_no_json_makes_the_server_fail(client, path, body):
    answer = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code in FOUND, answer.text
    assert answer.json() is not None


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PATHS), st.binary(max_size=200), st.sampled_from(["application/json", "text/plain", "", "a/b;"]))
def test_no_bytes_make_the_server_fail(client, path, content, kind):
    answer = client.post(path, content=content, headers={"Content-Type": kind})
    assert answer.status_code in FOUND
    assert answer.json()["error"]


def test_the_openapi_page_is_what_the_server_does(ranker):
    schemathesis = pytest.importorskip("schemathesis", reason="needs the test-serve extra")
    app = create_app(ranker)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {*PATHS, "/info", "/metrics"}
    with TestClient(app) as client:
        for operation in operations:

            @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            @given(case=operation.as_strategy())
            def sent(case):
                answer = case.call(session=client, base_url="http://testserver")
                assert answer.status_code < 500 or answer.status_code == 503

            sent()
