"""Ids in, ids out: documents that are in the store need not be sent."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("prometheus_client", reason="needs the serve extra")

from starlette.testclient import TestClient

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.serving.app import create_app
from blockrank_rerank.states.document_files import DamagedDocumentsError
from blockrank_rerank.states.stored_documents import StoredDocuments
from tests.serving.conftest import DOCUMENTS, QUERY

CORPUS = [{"_id": f"d{number}", "text": text} for number, text in enumerate(DOCUMENTS)]
CORPUS[1]["title"] = "drugs"


@pytest.fixture(scope="module")
def client(ranker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "states"
    ranker.prepare_store(folder, CORPUS)
    stored = BlockRankReranker.from_pretrained(device="cpu", dtype="float32", store=folder)
    with TestClient(create_app(stored)) as client:
        yield client


def asked(client, documents, **wishes):
    return client.post("/v2/rerank", json={"query": QUERY, "documents": documents, **wishes})


def test_documents_of_ids_rank_as_their_texts_do_and_are_not_read(client, ranker):
    expected = ranker.rank(QUERY, CORPUS)
    rows = asked(client, [{"id": f"d{number}"} for number in range(3)]).json()["results"]
    assert [(row["index"], row["id"]) for row in rows] == [(d.index, f"d{d.index}") for d in expected]
    assert [row["relevance_score"] for row in rows] == pytest.approx([d.probability for d in expected], abs=1e-5)
    assert {row["served_from"] for row in rows} == {"stored"}


@pytest.mark.parametrize(
    "document", [{"id": "d1", "text": None, "title": None}, {"_id": "d1"}, {"_id": None, "id": "d1"}]
)
def test_an_id_is_alone_beside_what_is_null_and_under_each_of_its_names(client, document):
    (row,) = asked(client, [document], return_documents=True).json()["results"]
    assert row["document"] == {"id": "d1", "title": "drugs", "text": "aspirin thins blood"}
    assert row["served_from"] == "stored"


def test_documents_of_ids_come_back_with_title_and_text(client):
    rows = asked(client, [{"id": "d1"}, {"id": "new", "text": "sugar"}, "salt"], return_documents=True).json()[
        "results"
    ]
    found = {row["index"]: row for row in rows}
    assert found[0]["document"] == {"id": "d1", "title": "drugs", "text": "aspirin thins blood"}
    assert found[1]["document"] == {"id": "new", "text": "sugar"}
    assert [found[index].get("id") for index in range(3)] == ["d1", "new", None]
    assert [found[index]["served_from"] for index in range(3)] == ["stored", "read", "read"]


def test_ids_that_the_store_does_not_have_are_named_without_its_folder(client):
    answer = asked(client, [{"id": "d1"}, {"id": "gone\n"}, {"id": "lost"}])
    assert answer.status_code == 422
    assert answer.json()["message"] == r"documents: 2 of 3 ids are not in the store: 'gone\n', 'lost'"
    assert answer.json()["field"] == "documents"


def test_a_whole_number_with_a_point_is_the_whole_number(ranker, tmp_path):
    ranker.prepare_store(tmp_path / "states", [{"_id": 7.0, "text": "sugar"}])
    stored = BlockRankReranker.from_pretrained(device="cpu", dtype="float32", store=tmp_path / "states")
    with TestClient(create_app(stored)) as client:
        assert [row["id"] for row in asked(client, [{"id": 7.0}]).json()["results"]] == [7]


@pytest.mark.parametrize("identifier", [None, True, 1.5, ["d1"], {"id": "d1"}])
def test_an_id_that_is_none_is_refused(client, identifier):
    answer = asked(client, ["sugar", {"id": identifier}])
    assert (answer.status_code, answer.json()["field"]) == (422, "documents[1]")


def test_what_is_prepared_while_the_server_runs_is_not_read(ranker, tmp_path):
    ranker.prepare_store(tmp_path / "states", CORPUS[:1])
    stored = BlockRankReranker.from_pretrained(device="cpu", dtype="float32", store=tmp_path / "states")
    with TestClient(create_app(stored)) as client:
        assert asked(client, [{"id": "d0"}]).status_code == 200
        ranker.prepare_store(tmp_path / "states", CORPUS)
        rows = asked(client, [{"id": "d1"}, {"id": "d0"}]).json()["results"]
    assert {row["served_from"] for row in rows} == {"stored"}


def test_an_id_comes_back_as_it_was_sent(ranker, tmp_path):
    ranker.prepare_store(tmp_path / "states", [{"_id": 7, "text": "sugar"}])
    stored = BlockRankReranker.from_pretrained(device="cpu", dtype="float32", store=tmp_path / "states")
    with TestClient(create_app(stored)) as client:
        for identifier in (7, "7"):
            (row,) = asked(client, [{"id": identifier}], return_documents=True).json()["results"]
            assert row["id"] == row["document"]["id"] == identifier


@pytest.mark.parametrize("error", [DamagedDocumentsError("/folder/of/it"), OSError("/folder/of/it")])
def test_a_store_that_cannot_be_read_is_no_fault_of_the_request(client, monkeypatch, capsys, error):
    def get(self, ids):
        raise error

    monkeypatch.setattr(StoredDocuments, "get", get)
    answer = asked(client, [{"id": "d1"}])
    assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend")
    assert "/folder" not in answer.text
    assert type(error).__name__ in capsys.readouterr().err


def test_a_store_of_another_model_is_told_when_the_application_starts(client, ranker, tmp_path):
    ranker.prepare_store(tmp_path / "states", DOCUMENTS)
    other = BlockRankReranker.from_pretrained(device="cpu", dtype="bfloat16", store=tmp_path / "states")
    with pytest.raises(ValueError, match="states"), TestClient(create_app(other)):
        pass


def test_ids_alone_need_a_store(ranker):
    with TestClient(create_app(ranker)) as client:
        answer = asked(client, ["sugar", {"id": "d1"}])
    assert (answer.status_code, answer.json()["field"]) == (422, "documents[1]")
    assert "has no store: start it with --store" in answer.json()["message"]
