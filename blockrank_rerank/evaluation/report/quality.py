"""How well rankers order the same candidates: a table, deeper lists, other orders."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from blockrank_rerank.evaluation.measures import Evaluation, evaluate_ranker, measure_queries
from blockrank_rerank.evaluation.paired import mean_interval, paired_difference
from blockrank_rerank.evaluation.report.contestants import Contestant
from blockrank_rerank.evaluation.report.numbers import Depth, Permutations, Row
from blockrank_rerank.evaluation.task import Task
from blockrank_rerank.formats import Qrels, Run

DEPTHS = (10, 20, 50, 100, 200, 500, 1000)
ORDERS = 5
"""Orders of the candidates of which the variance is taken."""

Advance = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How everything is measured.

    Parameters
    ----------
    task : Task
        Candidates may be more than `depth`.
    depth, min_relevance, seed : int
        As for :func:`evaluate_ranker`.
    """

    task: Task
    depth: int
    min_relevance: int
    seed: int

    def evaluate(
        self,
        contestant: Contestant,
        *,
        depth: int | None = None,
        seed: int | None = None,
        advance: Advance | None = None,
    ) -> Evaluation:
        """Rerank every query's candidates."""
        return evaluate_ranker(
            contestant.ranker,
            *self.task,
            depth=depth or self.depth,
            min_relevance=self.min_relevance,
            seed=self.seed if seed is None else seed,
            on_progress=advance,
        )

    def by_query(self, run: Run) -> dict[str, dict[str, float]]:
        """Measure name → query → value."""
        return measure_queries(self._qrels, run, self.min_relevance, depth=self.depth)

    @property
    def _qrels(self) -> Qrels:
        return self.task.collection.qrels

    def rows(self, first_stage: str, runs: dict[str, Run], ours: str, truncated: dict[str, int]) -> list[Row]:
        """Make the table: the first stage, then the rankers.

        Parameters
        ----------
        first_stage, ours : str
            Names of two of the runs.
        runs : dict
            Name → run, the first stage's among them.
        truncated : dict
            Name → documents of which the ranker read only the beginning.
        """
        measured = {name: self.by_query(run) for name, run in runs.items()}
        reference = [*measured[ours]["nDCG@10"].values()]
        return [
            Row(
                name=name,
                measures={measure: statistics.fmean(values.values()) for measure, values in measures.items()},
                interval=mean_interval([*measures["nDCG@10"].values()]),
                ours=None if name == ours else paired_difference(reference, [*measures["nDCG@10"].values()]),
                truncated=truncated.get(name, 0),
            )
            for name, measures in ((name, measured[name]) for name in dict.fromkeys((first_stage, *measured)))
        ]

    def depths(self) -> list[int]:
        """How many candidates to give: up to as many as the first stage has."""
        longest = max(map(len, self.task.first_stage.values()))
        return [*(depth for depth in DEPTHS if depth < longest), longest]

    def at_depth(self, ours: Contestant, depth: int, advance: Advance | None = None) -> Depth:
        """Give our model so many candidates."""
        evaluation = self.evaluate(ours, depth=depth, advance=advance)
        return Depth(depth=depth, ndcg=evaluation.after["nDCG@10"], recall=evaluation.before[f"R@{depth}"])

    def permutations(self, contestant: Contestant, advance: Advance | None = None) -> Permutations:
        """Give a model the same candidates in several orders."""
        values = [
            self.evaluate(contestant, seed=self.seed + number, advance=advance).after["nDCG@10"]
            for number in range(ORDERS)
        ]
        return Permutations(name=contestant.name, values=values, variance=statistics.pvariance(values))
