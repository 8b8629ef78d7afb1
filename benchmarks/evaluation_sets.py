"""Collections for evaluation: how each of a folder of BEIR folders is measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockrank_rerank.evaluation.task import TaskSource


@dataclass(frozen=True, kw_only=True)
class How:
    """What differs from BM25 over the corpus and the test judgements."""

    split: str = "test"
    run: str | None = None
    min_relevance: int = 1


HOW = {
    "trec-dl19": How(split="full_pool", run="bm25.trec", min_relevance=2),
    "trecqa": How(run="candidates_test.trec"),
}


def source(folder: Path, queries: int | None, depth: int) -> TaskSource:
    """Where the task of one collection comes from."""
    how = HOW.get(folder.name, How())
    run = None if how.run is None else folder / how.run
    return TaskSource(
        folder=folder, run=run, split=how.split, depth=depth, min_relevance=how.min_relevance, queries=queries
    )


def read_task(folder: Path, queries: int | None, depth: int) -> dict[str, Any]:
    """What `evaluate_ranker` takes besides a ranker, for one collection."""
    asked = source(folder, queries, depth)
    return {**asked.read()._asdict(), "depth": depth, "min_relevance": asked.min_relevance}


def collections(folder: Path, only: list[str]) -> list[Path]:
    """The collections of a folder, or some of them."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and (not only or path.name in only))
