"""One server, one store, several tunings: a request's model says which."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("prometheus_client", reason="needs the serve extra")

from starlette.testclient import TestClient

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.serving.app import create_app
from blockrank_rerank.serving.turn import RankRequest, rank_together
from tests.engine.test_tuned import BERT, saved, tuning_of
from tests.serving.conftest import DOCUMENTS, QUERY
from tests.states.test_prepared import save_ranker

BODY = {"query": QUERY, "documents": DOCUMENTS}
FORMS = {
    "/v2/rerank": BODY,
    "/v1/rerank": BODY,
    "/rerank": {"query": QUERY, "texts": DOCUMENTS},
    "/v1/ranking": {"query": {"text": QUERY}, "passages": [{"text": text} for text in DOCUMENTS]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_ranker(tmp_path_factory.mktemp("bert") / "small", "bert", BERT)


@pytest.fixture(scope="module")
def tuned(folder, tmp_path_factory):
    plain, files = BlockRankReranker.from_pretrained(folder, dtype="float32"), tmp_path_factory.mktemp("tunings")
    plain.prepare_store(files / "store", DOCUMENTS)
    tunings = {
        name: saved(files / f"{name}.safetensors", tuning_of(plain, seed=n)) for n, name in enumerate(["law", "health"])
    }
    return BlockRankReranker.from_pretrained(folder, dtype="float32", tuning=tunings, store=files / "store")


@pytest.fixture(scope="module")
def client(tuned):
    with TestClient(create_app(tuned)) as client:
        yield client


def test_the_list_of_models_has_the_model_and_its_tunings(client):
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["small", "law", "health"]


@pytest.mark.parametrize("model", [None, "small", "law", "health"])
def test_a_request_names_the_tuning_that_ranks_it(client, tuned, model):
    expected = tuned.rank(QUERY, DOCUMENTS, tuning=None if model == "small" else model)
    answer = client.post("/v2/rerank", json=BODY | {"model": model}).json()
    assert answer["model"] == (model or "small")
    assert [row["index"] for row in answer["results"]] == [document.index for document in expected]
    scores = [row["relevance_score"] for row in answer["results"]]
    assert scores == pytest.approx([document.probability for document in expected], abs=1e-5)
    assert {row["served_from"] for row in answer["results"]} == {"stored"}


@pytest.mark.parametrize("path", FORMS)
def test_every_form_may_name_one_and_an_unknown_one_is_refused_with_those_that_there_are(client, path):
    plain, law = (client.post(path, json=FORMS[path] | {"model": model}).json() for model in ("small", "law"))
    assert plain != law
    refused = client.post(path, json=FORMS[path] | {"model": "lwa"})
    assert refused.status_code == 404
    assert refused.json()["message"] == "model must be one of 'small', 'law', 'health', got 'lwa'"


def test_requests_of_several_tunings_that_wait_together_each_have_their_own(tuned):
    names = ["law", None, "health", "law"]
    requests = [RankRequest(QUERY, DOCUMENTS, tuning=name) for name in names]
    found = dict(rank_together(tuned, requests))
    for number, name in enumerate(names):
        expected = [document.raw_score for document in tuned.rank(QUERY, DOCUMENTS, tuning=name)]
        assert [document.raw_score for document in found[number].ranking] == pytest.approx(expected, abs=1e-5)


def test_a_tuning_of_another_model_is_told_before_anybody_asks(folder, tuned, tmp_path):
    other = save_ranker(tmp_path / "other", "bert", BERT, seed=5)
    file = saved(tmp_path / "t.safetensors", tuning_of(BlockRankReranker.from_pretrained(folder, dtype="float32")))
    app = create_app(BlockRankReranker.from_pretrained(other, dtype="float32", tuning={"law": file}))
    with pytest.raises(ValueError, match="was made for another model"), TestClient(app):
        pass
