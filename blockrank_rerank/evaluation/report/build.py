"""A report, measured part by part."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from blockrank_rerank.evaluation import calibration
from blockrank_rerank.evaluation.machine import machine
from blockrank_rerank.evaluation.measures import Evaluation
from blockrank_rerank.evaluation.own_documents import own_documents, without_own
from blockrank_rerank.evaluation.report.contestants import Contestant
from blockrank_rerank.evaluation.report.latency import measure_latency, timed_lists
from blockrank_rerank.evaluation.report.numbers import (
    CollectionNumbers,
    Depth,
    Latency,
    NamedCalibration,
    Numbers,
    Permutations,
    Row,
    Stuffing,
)
from blockrank_rerank.evaluation.report.quality import DEPTHS, ORDERS, Quality
from blockrank_rerank.evaluation.report.worst import ShownQuery, shown_query, worst_queries
from blockrank_rerank.evaluation.stuffing import WAYS, bm25_wins, stuffing_cases, wins
from blockrank_rerank.evaluation.task import Task, TaskSource

Progress = Callable[[str, int], AbstractContextManager[Callable[[int, int], None]]]
"""What is done, and how many items → a function that is told the items and tokens done."""

DEEPEST = DEPTHS[-1]
"""How deep the first stage is searched for the depth curve."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The numbers, and the texts of a few queries."""

    numbers: Numbers
    worst: list[ShownQuery]


def read_task(source: TaskSource) -> Task:
    """Read what a report is of: with deep lists of BM25, and without queries among their own candidates.

    Raises
    ------
    OSError, DataError
        As :meth:`TaskSource.read`.
    """
    task = replace(source, depth=max(source.depth, DEEPEST)).read()
    own = own_documents(task.collection.queries, task.corpus)
    return task._replace(first_stage=without_own(task.first_stage, own))


@dataclass(frozen=True, kw_only=True)
class ReportBuilder:
    """Measures one collection.

    Parameters
    ----------
    source : TaskSource
        What to measure on.
    task : Task
        What :func:`read_task` gave for it.
    contestants : sequence of Contestant
        Ours comes first.
    progress : Progress
        Told how far each part is.
    """

    source: TaskSource
    task: Task
    contestants: Sequence[Contestant]
    progress: Progress

    def build(self, command: str, notes: Sequence[str]) -> Report:
        """Measure all parts.

        Parameters
        ----------
        command : str
            What was typed.
        notes : sequence of str
            What is missing, and why.
        """
        evaluations = self._evaluations()
        first, ours = self._first_stage, self._ours.name
        before = evaluations[ours].candidates
        runs = {first: before} | {name: each.reranked.run for name, each in evaluations.items()}
        truncated = {name: each.reranked.truncated for name, each in evaluations.items()}
        rows = self._quality.rows(first, runs, ours, truncated)
        values = {name: self._quality.by_query(runs[name])["nDCG@10"] for name in (first, ours)}
        worst = worst_queries(values[first], values[ours])
        numbers = Numbers(
            command=command,
            date=datetime.date.today().isoformat(),
            machine=machine(),
            model=ours,
            collection=self._collection(evaluations[ours], rows[0]),
            rows=rows,
            depths=self._depths(),
            permutations=self._permutations(),
            latencies=self._latencies(),
            stuffing=self._stuffing(),
            calibrations=self._calibrations(),
            worst=worst,
            notes=[*notes],
        )
        return Report(numbers=numbers, worst=[shown_query(each, self.task, before, runs[ours]) for each in worst])

    @property
    def _ours(self) -> Contestant:
        return self.contestants[0]

    @property
    def _first_stage(self) -> str:
        return "BM25" if self.source.run is None else self.source.run.stem

    @property
    def _quality(self) -> Quality:
        asked = self.source
        return Quality(task=self.task, depth=asked.depth, min_relevance=asked.min_relevance, seed=asked.seed)

    @property
    def _ranked(self) -> int:
        """Queries with candidates."""
        return sum(bool(self.task.first_stage.get(query)) for query in self.task.collection.queries)

    def _collection(self, evaluation: Evaluation, first: Row) -> CollectionNumbers:
        asked = self.source
        return CollectionNumbers(
            name=asked.folder.resolve().name,
            split=asked.split,
            first_stage=self._first_stage,
            queries=evaluation.queries,
            documents=len(self.task.corpus),
            depth=asked.depth,
            min_relevance=asked.min_relevance,
            seed=asked.seed,
            recall=first.measures[f"R@{asked.depth}"],
            without_relevant=len(self.task.collection.without_positive),
            without_candidates=evaluation.without_candidates,
            unranked=evaluation.unranked,
            in_corpus=evaluation.in_corpus,
        )

    def _evaluations(self) -> dict[str, Evaluation]:
        with self.progress("same candidates", len(self.contestants) * self._ranked) as advance:
            return {each.name: self._quality.evaluate(each, advance=advance) for each in self.contestants}

    def _depths(self) -> list[Depth]:
        depths = self._quality.depths()
        with self.progress("more candidates", len(depths) * self._ranked) as advance:
            return [self._quality.at_depth(self._ours, depth, advance) for depth in depths]

    def _permutations(self) -> list[Permutations]:
        chosen = [each for each in self.contestants if each.in_context]
        with self.progress("other orders", len(chosen) * ORDERS * self._ranked) as advance:
            return [self._quality.permutations(each, advance) for each in chosen]

    def _latencies(self) -> list[Latency]:
        lists = timed_lists(self.task, self.source.depth, self.source.seed)
        total = len(lists) * sum(len(each.ways) for each in self.contestants)
        with self.progress("timing", total) as advance:
            return [latency for each in self.contestants for latency in measure_latency(each, lists, advance)]

    def _stuffing(self) -> Stuffing | None:
        cases = stuffing_cases(self.task, self.source.min_relevance, self.source.seed)
        if not cases:
            return None
        shares: dict[str, dict[str, float]] = {}
        with self.progress("stuffing", len(cases) * (len(self.contestants) + 1)) as advance:
            for each in self.contestants:
                shares[each.name] = wins(each.ranker, cases)
                advance(len(cases), 0)
            shares["BM25"] = {name: bm25_wins(self.task, cases, way) for name, way in WAYS.items()}
            advance(len(cases), 0)
        return Stuffing(queries=len(cases), shares=shares)

    def _calibrations(self) -> list[NamedCalibration]:
        chosen = [each for each in self.contestants if each.probabilities]
        lists = 2 * min(len(self.task.collection.queries), calibration.QUERIES)
        asked = self.source
        with self.progress("calibration", len(chosen) * lists) as advance:
            return [
                NamedCalibration(
                    name=each.name,
                    values=calibration.measure_calibration(
                        each.ranker, self.task, asked.min_relevance, asked.seed, advance
                    ),
                )
                for each in chosen
            ]
