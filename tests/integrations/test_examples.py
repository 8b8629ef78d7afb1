from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
COUNTED = {
    "cross_encoder": [],
    "llama_index_query_engine": ["llama_index.core"],
    "haystack_pipeline": ["haystack"],
    "langchain_retriever": ["langchain_core", "langchain_classic"],
}
"""Script → what it needs besides the extra eval."""

QUESTIONS = 8
FEW = f"""
import runpy, sys
script = sys.argv[1]
sys.path.insert(0, script.rpartition("/")[0])
import sample
# With the question of the README, which is a large gain.
kept = sorted(sample.QUERIES, key=lambda query: "type A insulin" not in sample.QUERIES[query])[:{QUESTIONS}]
for query in set(sample.QUERIES) - set(kept):
    del sample.CANDIDATES[sample.QUERIES.pop(query)]
runpy.run_path(script, run_name="__main__")
"""
"""Runs a script with few of the questions: a test of the README runs one with all."""


def run(name: str) -> str:
    script = (EXAMPLES / f"{name}.py").as_posix()
    done = subprocess.run([sys.executable, "-c", FEW, script], capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def plain() -> str:
    return run("plain_python")


def test_the_example_in_plain_python_shows_a_gain_with_its_answer_marked_and_counts_that_add_up(plain):
    before, after = map(float, re.search(r"BM25 ([\d.]+), reranked ([\d.]+)", plain).groups())
    assert after > before
    better, worse, equal = map(int, re.search(r"(\d+) better, (\d+) worse, (\d+) equal", plain).groups())
    assert better + worse + equal == QUESTIONS
    assert better > worse
    gain = plain[plain.index("largest gain") :].partition("\n\n")[0]
    assert re.search(r"^1    .{44}  \* ", gain, re.MULTILINE)


@pytest.mark.parametrize("name", COUNTED)
def test_every_example_prints_the_same_from_the_same_first_stage(name, plain):
    for module in COUNTED[name]:
        pytest.importorskip(module, reason=f"needs {module}")
    assert run(name) == plain


def test_mteb_measures_what_the_example_in_plain_python_does(plain):
    pytest.importorskip("mteb", reason="needs mteb, which is in no extra")
    (score,) = re.findall(r"reranked [\d.]+", run("mteb_reranking"))
    assert score in plain


def test_all_frameworks_give_the_same_order():
    for module in ("llama_index.core", "haystack", "langchain_core"):
        pytest.importorskip(module, reason=f"needs {module}")
    lines = run("same_order").splitlines()
    assert len(lines) == 5
    assert all(line.endswith("same order") for line in lines)
