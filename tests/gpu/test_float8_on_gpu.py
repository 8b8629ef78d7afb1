"""Linear layers in 8 bits on a GPU that has such products. There: pytest tests/gpu"""

from __future__ import annotations

import pytest
import torch

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.model.devices import float8_on

QUERY = "Why does cement set?"
DOCUMENTS = ["Concrete hardens as cement reacts with water.", "Fleas live for three months.", "Iron rusts.", ""] * 9


@pytest.fixture(scope="module")
def ranker():
    verdict = float8_on(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if not verdict.usable:
        pytest.skip(f"float8: {verdict.reason}")
    return BlockRankReranker.from_pretrained(device="cuda", quantization="float8")


def raw_scores(ranker, documents):
    return {document.index: document.raw_score for document in ranker.rank(QUERY, documents)}


def test_scores_are_near_those_in_bf16(ranker):
    plain = raw_scores(BlockRankReranker.from_pretrained(device="cuda", dtype="bfloat16"), DOCUMENTS)
    assert raw_scores(ranker, DOCUMENTS) == pytest.approx(plain, abs=1.0)


def test_a_document_scores_the_same_alone_and_prepared(ranker):
    together = raw_scores(ranker, DOCUMENTS)
    assert raw_scores(ranker, ranker.prepare(DOCUMENTS)) == pytest.approx(together, abs=0.05)
    assert raw_scores(ranker, DOCUMENTS[:1])[0] == pytest.approx(together[0], abs=0.05)
