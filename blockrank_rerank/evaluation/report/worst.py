"""The queries for which reranking did worst, with what stands first before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blockrank_rerank.evaluation.report.numbers import WorstQuery
from blockrank_rerank.evaluation.task import Task
from blockrank_rerank.formats import Run
from blockrank_rerank.text.document import document_text

QUERIES, DOCUMENTS, CHARACTERS = 10, 3, 300
"""Queries shown, documents of each ranking, and characters of a text."""


@dataclass(frozen=True)
class ShownDocument:
    """A document of a ranking: its id, the beginning of its text, and its judgement, if it has one."""

    name: str
    text: str
    grade: int | None


@dataclass(frozen=True)
class ShownQuery:
    """A query with its text, and the first documents before and after reranking."""

    numbers: WorstQuery
    text: str
    before: list[ShownDocument]
    after: list[ShownDocument]


def worst_queries(first_stage: Mapping[str, float], ours: Mapping[str, float]) -> list[WorstQuery]:
    """Choose those that lose most against the first stage, and then those with the lowest measure.

    Parameters
    ----------
    first_stage, ours : mapping
        Query → nDCG@10.
    """
    order = sorted(ours, key=lambda query: (ours[query] - first_stage[query], ours[query]))
    return [WorstQuery(query=query, first_stage=first_stage[query], ours=ours[query]) for query in order[:QUERIES]]


def shown_query(numbers: WorstQuery, task: Task, before: Run, after: Run) -> ShownQuery:
    """Put texts and judgements beside the numbers of a query."""
    runs = (_shown(task, numbers.query, run) for run in (before, after))
    return ShownQuery(numbers, task.collection.queries[numbers.query], *runs)


def _shown(task: Task, query: str, run: Run) -> list[ShownDocument]:
    judged = task.collection.qrels[query]
    names = list(run.get(query, {}))[:DOCUMENTS]
    return [ShownDocument(name, _excerpt(document_text(task.corpus[name], 0)), judged.get(name)) for name in names]


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= CHARACTERS else f"{line[:CHARACTERS].rstrip()} …"
