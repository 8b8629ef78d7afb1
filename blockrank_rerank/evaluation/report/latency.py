"""How long a ranker takes for the list of one query."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from blockrank_rerank.evaluation.measures import shuffled
from blockrank_rerank.evaluation.report.contestants import Contestant, Timed, Way
from blockrank_rerank.evaluation.report.numbers import Latency
from blockrank_rerank.evaluation.rerank_run import first_documents
from blockrank_rerank.evaluation.task import Task

QUERIES, FEWEST, SECONDS = 20, 5, 60.0
"""Queries that are timed, at most and at least; the least is enough once one way has taken so long."""

List = tuple[str, Sequence[Any]]


def timed_lists(task: Task, depth: int, seed: int) -> list[List]:
    """Draw queries with candidates, and take those in random order."""
    queries = sorted(query for query in task.collection.queries if task.first_stage.get(query))
    drawn = random.Random(seed).sample(queries, min(QUERIES, len(queries)))
    run = shuffled(first_documents({query: task.first_stage[query] for query in drawn}, depth), seed)
    return [(task.collection.queries[query], [task.corpus[name] for name in ranking]) for query, ranking in run.items()]


def measure_latency(
    contestant: Contestant, lists: Sequence[List], advance: Callable[[int, int], None] | None = None
) -> Iterator[Latency]:
    """Time every way of a contestant, one list after the other.

    Parameters
    ----------
    contestant : Contestant
        Has the ways.
    lists : sequence of (query, documents)
        At least one; queries as the ranker reads them.
    advance : callable, optional
        Called with the lists and tokens done since the last call.
    """
    asked = contestant.ranker.fitting_queries({str(number): query for number, (query, _) in enumerate(lists)}).values()
    for name, way in contestant.ways.items():
        times = _times(way, [(query, documents) for query, (_, documents) in zip(asked, lists, strict=True)], advance)
        yield Latency(
            name=contestant.name,
            way=name,
            queries=len(times),
            documents=statistics.fmean(len(documents) for _, documents in lists[: len(times)]),
            p50=float(np.percentile(times, 50)),
            p95=float(np.percentile(times, 95)),
        )


def _times(way: Way, lists: Sequence[List], advance: Callable[[int, int], None] | None) -> list[float]:
    """Milliseconds, of which those of the first list, which warms up, are measured once it has run."""
    begin = time.perf_counter()
    way(*lists[0])()
    times: list[float] = []
    for query, documents in lists:
        if len(times) < FEWEST or time.perf_counter() - begin < SECONDS:
            times.append(_milliseconds(way(query, documents)))
        if advance:
            advance(1, 0)
    return times


def _milliseconds(timed: Timed) -> float:
    """A ranking ends with scores on the CPU, so nothing of it is still running on a device when it returns."""
    start = time.perf_counter()
    timed()
    return 1e3 * (time.perf_counter() - start)
