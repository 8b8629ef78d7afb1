"""What one client is answered does not depend on who else asks."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("uvicorn", reason="needs the serve extra")

import httpx

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.serving.app import create_app
from tests.serving.conftest import on_loopback
from tests.tiny_models import CONFIG, WORDS, save_model

CLIENTS, REQUESTS = 16, 25  # `benchmarks/serving.py --part equal` sends 100 each, to the default model


def request_of(number):
    """A list that no other request has."""
    documents = [f"{WORDS[(number + place) % len(WORDS)]} {number}" for place in range(2 + number % 3)]
    return {"query": f"{WORDS[number % len(WORDS)]} {number}", "documents": documents}


async def answers(address, numbers):
    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        return [(await client.post("/v2/rerank", json=request_of(number))).json()["results"] for number in numbers]


async def of_all_clients(address):
    numbers = [range(client, CLIENTS * REQUESTS, CLIENTS) for client in range(CLIENTS)]
    return await asyncio.gather(*(answers(address, its) for its in numbers))


def test_answers_to_sixteen_clients_at_once_are_those_of_one_after_the_other(tmp_path):
    folder = save_model(tmp_path, "llama")
    ranker = BlockRankReranker.from_pretrained(folder, config=CONFIG, device="cpu", dtype="float32")
    with on_loopback(create_app(ranker)) as address:
        found = asyncio.run(of_all_clients(address))
    for number in range(CLIENTS * REQUESTS):
        request = request_of(number)
        expected = {document.index: document.score for document in ranker.rank(request["query"], request["documents"])}
        scores = {row["index"]: row["relevance_score"] for row in found[number % CLIENTS][number // CLIENTS]}
        assert scores == pytest.approx(expected, abs=1e-5)
