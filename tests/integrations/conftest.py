from __future__ import annotations

import subprocess
import sys

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


WITHOUT = """
import importlib, sys
sys.modules["pydantic"] = None
import blockrank_rerank.adapters as door
door.plain_options({})
print("door opened")
del sys.modules["pydantic"]
for name in ("haystack", "langchain_core", "llama_index.core", "llama_index.core.bridge.pydantic", "rerankers"):
    sys.modules[name] = None
for adapter in (
    "haystack_integrations.components.rankers.blockrank",
    "langchain_blockrank",
    "llama_index.postprocessor.blockrank_rerank",
    "rerankers_blockrank",
):
    try:
        importlib.import_module(adapter)
    except ImportError as error:
        print(adapter, error)
"""


@pytest.fixture(scope="session")
def without_frameworks() -> dict[str, str]:
    """What importing an adapter says where its framework is not installed; one process for all, as it reads torch."""
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.fixture
def one_core_each():
    """Sixteen threads that each ask for all cores would spend their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
