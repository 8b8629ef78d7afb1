from __future__ import annotations

import pytest
import torch

from blockrank_rerank import BlockRankReranker

QUESTION = "what treats a heart attack"
TEXTS = [
    "The liver stores sugar and vitamins.",
    "A heart attack is treated with aspirin and by opening the blocked artery.",
    "Bread is baked at 220 degrees.",
    "Aspirin thins the blood.",
    "Emoji 🩺 and </s> [SEP] are text like any other.",
    "",
]
CUT = "Bread is baked at 220 degrees. " * 5 + "A heart attack is treated with aspirin."
"""More than 20 tokens."""


@pytest.fixture(scope="session")
def ranking():
    """What the engine itself says."""
    return BlockRankReranker.from_pretrained().rank(QUESTION, TEXTS)


@pytest.fixture
def one_core_each():
    """Sixteen threads that each ask for all cores would spend their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
