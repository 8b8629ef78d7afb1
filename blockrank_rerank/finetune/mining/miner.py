"""The choice of negatives from rankings."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from blockrank_rerank.finetune.data.example import TrainingExample
from blockrank_rerank.finetune.data.judged_corpus import JudgedCorpus
from blockrank_rerank.finetune.data.retrieval import Ranking, random_documents
from blockrank_rerank.finetune.mining.progress import OnProgress
from blockrank_rerank.finetune.mining.report import Mining, MiningReport
from blockrank_rerank.finetune.mining.teacher import Teacher, is_false_negative


class Miner:
    """Chooses negatives from rankings, in two passes, so that the teacher embeds in two large batches.

    Parameters
    ----------
    corpus : JudgedCorpus
        Queries and documents.
    teacher : Teacher, optional
        Refuses false negatives and scores all documents.
    margin : float
        See `is_false_negative`.
    skip_top : int
        Documents left out at the top of each ranking.
    per_query : int
        Negatives per query.
    seed : int
        Seed of the random documents that fill up.
    on_progress : OnProgress, optional
        Told the queries done.
    """

    def __init__(
        self,
        corpus: JudgedCorpus,
        teacher: Teacher | None,
        *,
        margin: float,
        skip_top: int,
        per_query: int,
        seed: int,
        on_progress: OnProgress | None,
    ) -> None:
        self._corpus, self._teacher, self._margin = corpus, teacher, margin
        self._skip_top, self._per_query, self._seed = skip_top, per_query, seed
        self._on_progress = on_progress or (lambda stage, done, total: None)
        own = sum(query in corpus.own for query in corpus.queries)
        self._report = MiningReport(queries=len(corpus.queries), queries_in_corpus=own)
        self._doubtful: set[str] = set()

    def mine(self, ranking: Ranking) -> Mining:
        """Choose negatives for every query of the corpus; to be called once, since the report adds up."""
        chosen = self._choose(ranking)
        extra = self._draw(chosen, ranking)
        self._read(extra)
        examples = []
        for query in self._corpus.queries:
            filled = self._filled(query, chosen[query], extra.pop(query, []))
            example = self._corpus.example(query, filled)
            examples.append(self._teacher.scored(example) if self._teacher else example)
            self._count(query, examples[-1])
        self._report.positives_below_best_negative = len(self._doubtful)
        return Mining(examples, self._report)

    def _choose(self, ranking: Ranking) -> Ranking:
        candidates = {query: self._candidates(query, ranking[query]) for query in self._corpus.queries}
        judged = {query: [*self._corpus.positives[query], *self._corpus.negatives[query]] for query in candidates}
        self._read({query: [*judged[query], *candidates[query]] for query in candidates})
        chosen: Ranking = {}
        for done, query in enumerate(self._corpus.queries, start=1):
            chosen[query] = self._hardest(query, candidates[query])
            self._on_progress("mining", done, len(candidates))
        return chosen

    def _candidates(self, query: str, ranking: list[str]) -> list[str]:
        unjudged = [] if self._corpus.negatives_are_judged else self._corpus.negatives[query]
        return [*unjudged, *ranking[self._skip_top :]]

    def _hardest(self, query: str, candidates: list[str]) -> list[str]:
        judged = self._corpus.negatives[query] if self._corpus.negatives_are_judged else []
        passed = self._passed(query, candidates)
        self._report.queries_without_mined += not passed
        found = [*judged, *passed]
        of_data = frozenset(self._corpus.negatives[query])
        self._report.dropped += sum(name in of_data for name in found[self._per_query :])
        return found[: self._per_query]

    def _passed(self, query: str, candidates: list[str]) -> list[str]:
        if self._teacher is None or not candidates:
            return candidates
        scores = self._scores(self._teacher, query, candidates)
        positives = self._scores(self._teacher, query, self._corpus.positives[query])
        refused = is_false_negative(scores, positives, self._margin)
        self._report.considered += len(candidates)
        self._report.refused_by_teacher += int(refused.sum())
        if scores.max() > positives.max():
            self._doubtful.add(query)
        return [name for name, is_refused in zip(candidates, refused, strict=True) if not is_refused]

    def _scores(self, teacher: Teacher, query: str, names: Iterable[str]) -> NDArray[np.float32]:
        return teacher.scores(self._corpus.queries[query], [self._corpus.documents[name] for name in names])

    def _draw(self, chosen: Ranking, ranking: Ranking) -> Ranking:
        """Draw documents for queries that are short: twice as many as are missing, as some may be refused.

        None of them is in the ranking: what was refused or skipped there must not come back by chance.
        """
        names = list(self._corpus.documents)
        return {
            query: random_documents(
                self._corpus, query, names, 2 * (self._per_query - len(found)), self._seed, frozenset(ranking[query])
            )
            for query, found in chosen.items()
            if len(found) < self._per_query
        }

    def _filled(self, query: str, chosen: list[str], extra: list[str]) -> list[str]:
        filled = [*chosen, *self._passed(query, extra)][: self._per_query] if extra else chosen
        self._report.random += len(filled) - len(chosen)
        self._report.queries_short += len(filled) < self._per_query
        return filled

    def _read(self, names: Ranking) -> None:
        if self._teacher is not None and names:
            wanted = dict.fromkeys(name for found in names.values() for name in found)
            queries = [self._corpus.queries[query] for query in names]
            self._teacher.read(queries, [self._corpus.documents[name] for name in wanted])

    def _count(self, query: str, example: TrainingExample) -> None:
        of_data = {self._corpus.documents[name] for name in self._corpus.negatives[query]}
        negatives = [candidate.text for candidate in example.negatives]
        self._report.positives += len(example.positives)
        self._report.negatives += len(negatives)
        self._report.given += sum(text in of_data for text in negatives)
        lost = example.candidates[0].teacher_score is None and bool(self._corpus.teacher_scores.get(query))
        self._report.queries_without_their_scores += lost
        report = self._report
        report.mined = report.negatives - report.given - report.random
