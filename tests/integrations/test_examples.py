from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("llama_index_query_engine", ["llama_index.core", "llama_index.retrievers.bm25"]),
        ("haystack_pipeline", ["haystack"]),
        ("langchain_retriever", ["langchain_core", "langchain_classic"]),
    ],
)
def test_the_example_prints_both_orders_and_a_better_ndcg(name, modules):
    for module in modules:
        pytest.importorskip(module, reason=f"needs {module}")
    output = run(name)
    before, after = map(float, re.search(r"BM25 ([\d.]+), reranked ([\d.]+)", output).groups())
    assert after > before
    assert "before" in output


def test_all_frameworks_give_the_same_order():
    for module in ("llama_index.core", "haystack", "langchain_core"):
        pytest.importorskip(module, reason=f"needs {module}")
    lines = run("same_order").splitlines()
    assert len(lines) == 5
    assert all(line.endswith("same order") for line in lines)
