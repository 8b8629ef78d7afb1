"""Modes of torch that an application sets for itself change no number, and none of them is changed."""

from __future__ import annotations

import gc
import random

import numpy as np
import pytest
import torch

from blockrank_rerank import BlockRankCrossEncoder, BlockRankReranker
from blockrank_rerank.engine.workers import ranking_with

QUERY = "how do I reset the router password"
DOCUMENTS = [
    "To reset the router password, hold the reset button for ten seconds. Then wait for the light.",
    "The annual flower show opens in May. The flower show of the router makers does not.",
    "Router settings are on page 3.",
]
MODES = {
    "a default device": lambda: torch.device("meta"),
    "autocast to bf16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to fp16": lambda: torch.autocast("cpu", torch.float16),
}


def numbers(dtype, folder):
    """What may come of a model, as numbers; it is read anew for them."""
    gc.collect()
    ranker = BlockRankReranker.from_pretrained(device="cpu", dtype=dtype)
    prepared = ranker.prepare(DOCUMENTS)
    ranker.prepare_store(folder, DOCUMENTS)
    explanation = ranker.explain(QUERY, DOCUMENTS)
    rankings = [
        ranker.rank(QUERY, DOCUMENTS),
        ranker.rank(QUERY, prepared),
        ranker.rank(QUERY, DOCUMENTS, deadline_ms=1e6),
        ranker.search(folder, QUERY),
        explanation.ranking,
    ]
    words = [[word.weight for word in one.words] for one in explanation]
    pieces = [piece.score for piece in ranker.context(QUERY, DOCUMENTS, max_tokens=40, diversity=0.5).pieces]
    pairs = BlockRankCrossEncoder(ranker).predict([(QUERY, document) for document in DOCUMENTS])
    answerable = [ranking.answerable for ranking in rankings]
    return [[d.raw_score for d in ranking] for ranking in rankings], words, pieces, answerable, pairs.tolist()


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def wanted(request, tmp_path_factory):
    return request.param, numbers(request.param, tmp_path_factory.mktemp("without") / "store")


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_mode_of_the_application_changes_no_number(wanted, mode, tmp_path):
    dtype, want = wanted
    with mode():
        assert numbers(dtype, tmp_path / "store") == want


def test_a_mode_of_the_application_is_there_for_its_own_generators_and_afterwards(tmp_path):
    """Texts may be computed by another model while they are asked for."""
    seen = []

    def documents():
        for text in DOCUMENTS:
            seen.append((torch.get_default_device().type, torch.is_autocast_enabled("cpu")))
            yield text

    ranker = BlockRankReranker.from_pretrained(device="cpu")
    with torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        ranker.prepare_store(tmp_path / "store", documents())
        ranker.rank(QUERY, documents())
        assert (torch.get_default_device().type, torch.is_autocast_enabled("cpu")) == ("meta", True)
    assert seen == [("meta", True)] * 6


def test_a_model_that_is_trained_with_autocast_is_measured_with_it():
    ranker = BlockRankReranker.from_pretrained(device="cpu", dtype="float32")
    without = [found.raw_score for found in ranker.rank(QUERY, DOCUMENTS)]
    with ranking_with(torch.autocast("cpu", torch.bfloat16)):
        assert [found.raw_score for found in ranker.rank(QUERY, DOCUMENTS)] != without
    assert [found.raw_score for found in ranker.rank(QUERY, DOCUMENTS)] == without


def test_reading_a_model_draws_no_random_numbers():
    def drawn():
        return torch.rand(1).item(), np.random.rand(), random.random()

    def seeded():
        torch.manual_seed(1), np.random.seed(1), random.seed(1)

    seeded()
    want = drawn()
    seeded()
    BlockRankReranker.from_pretrained(device="cpu", max_document_tokens=64).rank(QUERY, DOCUMENTS)
    assert drawn() == want
