"""The numbers of the method's authors' own implementation; see DESIGN, section 7."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from blockrank_rerank import BlockRankConfig, BlockRankReranker
from blockrank_rerank.model.layout import build_layout

FOLDER = Path(__file__).parents[1] / "fixtures" / "parity"
REQUESTS = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
NUMBERS = range(len(REQUESTS))
LAYERS = [1, 2, 3]


@pytest.fixture(scope="module", params=LAYERS, ids="layer{}".format)
def ranker(request):
    # The fixture's longest block is longer than the released cap, and the authors' numbers are for it uncut.
    config = BlockRankConfig(scoring_layer=request.param, max_document_tokens=None)
    return BlockRankReranker.from_pretrained(FOLDER, config=config, dtype="float32", device="cpu")


def encode(number):
    ranker = BlockRankReranker.from_pretrained(
        FOLDER, config=BlockRankConfig(scoring_layer=1, max_document_tokens=None)
    )
    request = REQUESTS[number]
    return ranker.engine.prompt.encode(request["query"], request["documents"])


def scores(ranking):
    return torch.tensor([document.score for document in sorted(ranking, key=lambda document: document.index)])


def expected_scores(number, ranker):
    return torch.tensor(REQUESTS[number]["expected"]["doc_scores"][str(ranker.config.scoring_layer)])


@pytest.mark.parametrize("number", NUMBERS)
def test_block_token_ids_equal_the_released_code(number):
    encoded = encode(number)
    instruction, *documents, ending, answer = REQUESTS[number]["expected"]["block_token_ids"]
    assert encoded.instruction == instruction
    assert encoded.documents == documents
    assert encoded.query == ending + answer
    assert not any(encoded.truncated)


@pytest.mark.parametrize("number", NUMBERS)
def test_positions_equal_the_released_code(number):
    layout = build_layout([encode(number)], query_offset=16384)
    blocks = REQUESTS[number]["expected"]["block_position_ids"]
    assert layout.positions.tolist() == [position for block in blocks for position in block]


@pytest.mark.parametrize("attention", ["sdpa", "reference"])
@pytest.mark.parametrize("number", NUMBERS)
def test_scores_equal_the_released_code(ranker, number, attention):
    chosen = BlockRankReranker.from_pretrained(FOLDER, config=ranker.config, dtype="float32", attention=attention)
    ranking = chosen.rank(REQUESTS[number]["query"], REQUESTS[number]["documents"])
    torch.testing.assert_close(scores(ranking), expected_scores(number, ranker), atol=1e-5, rtol=0)


def test_scores_equal_the_released_code_when_all_requests_share_a_pack(ranker):
    passes = []
    rankings = ranker.rank_batch(
        [(request["query"], request["documents"]) for request in REQUESTS],
        on_progress=lambda requests, tokens: passes.append(requests),
    )
    assert passes == [len(REQUESTS)]
    for number, ranking in enumerate(rankings):
        torch.testing.assert_close(scores(ranking), expected_scores(number, ranker), atol=1e-5, rtol=0)


def test_the_released_preset_is_the_prompt_of_the_fixture():
    # 16384, two signal tokens and the prompt are the released checkpoint's own; only depth differs here.
    config = BlockRankConfig(scoring_layer=1)
    assert (config.query_offset, config.signal_tokens, config.heads) == (16384, 2, None)
    assert config.reduction == "mean_of_softmax"
