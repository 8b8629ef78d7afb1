from __future__ import annotations

import importlib
import io
import re
import runpy
import sys
from contextlib import redirect_stdout
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

QUESTIONS, WORDS = 4, 40


@pytest.fixture(scope="module")
def run():
    """Runs a script on few questions and the first words of passages: a test of the README runs one on all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        sample = importlib.import_module("sample")
        # With the question of the README, which is a large gain.
        kept = sorted(sample.QUERIES, key=lambda query: "type A insulin" not in sample.QUERIES[query])[:QUESTIONS]
        for query in {*sample.QUERIES} - {*kept}:
            del sample.CANDIDATES[sample.QUERIES.pop(query)]
        sample.TEXTS.update({name: " ".join(text.split()[:WORDS]) for name, text in sample.TEXTS.items()})

        def printed(name: str) -> str:
            with redirect_stdout(io.StringIO()) as out:
                runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
            return out.getvalue()

        yield printed
    del sys.modules["sample"]


@pytest.fixture(scope="module")
def plain(run) -> str:
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
def test_every_example_prints_the_same_from_the_same_first_stage(run, name, plain):
    for module in COUNTED[name]:
        pytest.importorskip(module, reason=f"needs {module}")
    assert run(name) == plain


def test_mteb_measures_what_the_example_in_plain_python_does(run, plain):
    pytest.importorskip("mteb", reason="needs mteb, which is in no extra")
    (score,) = re.findall(r"reranked [\d.]+", run("mteb_reranking"))
    assert score in plain


def test_all_frameworks_give_the_same_order(run):
    for module in ("llama_index.core", "haystack", "langchain_core"):
        pytest.importorskip(module, reason=f"needs {module}")
    lines = run("same_order").splitlines()
    assert len(lines) == QUESTIONS
    assert all(line.endswith("same order") for line in lines)


def test_searching_the_sample_reports_as_reranking_does(run, plain):
    assert re.search(r"BM25 ([\d.]+), reranked", run("search"))[1] == re.search(r"BM25 ([\d.]+), reranked", plain)[1]
