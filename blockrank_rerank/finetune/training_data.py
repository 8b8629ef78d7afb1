"""What a run reads: the lists that it trains on, and the queries that it is measured on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from blockrank_rerank.finetune.data.example import TrainingExample
from blockrank_rerank.finetune.data.joined_rows import joined, query_key, relevant_texts
from blockrank_rerank.finetune.data.reader import read_examples
from blockrank_rerank.finetune.evaluation_sets import EvaluationSet, evaluation_names
from blockrank_rerank.finetune.held_out import ONE_IN, HeldOut, held_out_keys
from blockrank_rerank.finetune.settings import FinetuneSettings
from blockrank_rerank.finetune.sources import TrainingSource
from blockrank_rerank.formats import DataError
from blockrank_rerank.ranking.request import warn_of_cut
from blockrank_rerank.text.prompt import PromptEncoder


@dataclass(frozen=True)
class TrainingData:
    """All lists and judged queries that a run reads.

    Attributes
    ----------
    collections : list of sequences of TrainingExample
        One for each ``data`` source of the settings.
    trained : list of sequences of TrainingExample
        The same without the queries that are held out.
    evaluation_sets : list of EvaluationSet
        One for each ``evaluation`` source.
    held_out : HeldOut, optional
        Training queries that are measured on where there is no evaluation source.
    """

    collections: list[Sequence[TrainingExample]]
    trained: list[Sequence[TrainingExample]]
    evaluation_sets: list[EvaluationSet]
    held_out: HeldOut | None

    @classmethod
    def read(cls, settings: FinetuneSettings, one_in: int = ONE_IN) -> TrainingData:
        """Read all data that the settings name; of ``one_in`` queries of a collection at most one is held out.

        Raises
        ------
        ValueError
            Where the losses that are asked for find nothing to learn in the data.
        DataError
            For malformed data, naming file and line.
        """
        collections = [_read(source, settings.seed) for source in settings.data]
        _check_losses(settings, collections)
        names = evaluation_names(settings.evaluation)
        sets = [
            EvaluationSet.read(source, name, settings.seed)
            for source, name in zip(settings.evaluation, names, strict=True)
        ]
        keys = held_out_keys(collections, 0 if sets else settings.held_out, settings.seed, one_in)
        if not keys:
            return cls(collections, collections, sets, None)
        trained: list[Sequence[TrainingExample]] = [
            [example for example in part if query_key(example.query) not in keys] for part in collections
        ]
        return cls(collections, trained, sets, HeldOut.draw(collections, keys, settings))

    def check_queries(self, prompt: PromptEncoder) -> None:
        """Refuse queries that the model cannot read: now, and not when their turn comes. Warn of those that are cut.

        Raises
        ------
        DataError
            Naming file and line of the first.
        """
        trained = (_located_queries(collection) for collection in self.collections)
        measured = (queries.located_queries() for queries in self.evaluation_sets)
        _check_queries(chain.from_iterable(chain(trained, measured)), prompt)

    def warn_of_known_queries(self) -> None:
        """Warn where a query that is measured on is trained on."""
        if not self.evaluation_sets:
            return
        trained = {query for collection in self.collections for query, _ in _located_queries(collection)}
        for measured in self.evaluation_sets:
            asked = measured.collection.queries.values()
            if known := sum(query in trained for query in asked):
                warnings.warn(
                    f"{known} of the {len(asked)} queries of the evaluation {measured.name} are in the training data: "
                    "its measures will not tell how the model does on new ones",
                    stacklevel=2,
                )


def _read(source: TrainingSource, seed: int) -> Sequence[TrainingExample]:
    return read_examples(
        source.path,
        split=source.split,
        format=source.format,
        columns=source.columns,
        negatives=source.negatives,
        limit=source.limit,
        seed=seed,
    )


def _check_losses(settings: FinetuneSettings, collections: Sequence[Sequence[TrainingExample]]) -> None:
    if settings.distillation_weight and not any(map(_has_teacher, collections)):
        raise ValueError(
            "distillation_weight needs teacher scores, and the data has none: pos_scores and neg_scores, as "
            "'blockrank-finetune mine-negatives --teacher MODEL' writes them"
        )
    if not settings.abstention_weight and not settings.distillation_weight:
        _check_choice(collections)


def _check_choice(collections: Sequence[Sequence[TrainingExample]]) -> None:
    """Refuse data in which no list has a better document and a worse one, and warn of the queries without such a list.

    Lists that are short are filled up with documents of the collection that are not known to be relevant.
    """
    relevant = relevant_texts(chain.from_iterable(collections))
    queries = idle = 0
    for collection in map(joined, collections):
        texts = {candidate.text for example in collection for candidate in example.candidates}
        queries += len(collection)
        idle += sum(not _has_choice(example, relevant[query_key(example.query)], texts) for example in collection)
    advice = (
        "add negatives, or examples with other documents, among which 'blockrank-finetune mine-negatives' finds them"
    )
    if idle == queries:
        raise ValueError(
            f"no query has a document that is relevant and one that is not, so nothing is learnt: {advice}"
        )
    if idle:
        warnings.warn(
            f"{idle:,} of {queries:,} queries have relevant documents alone, and their data has no others: their lists "
            f"teach nothing; {advice}",
            stacklevel=2,
        )


def _has_choice(example: TrainingExample, relevant: set[str], texts: set[str]) -> bool:
    """Say whether a list of the example may hold what the loss tells apart."""
    grades = {candidate.grade for candidate in example.candidates}
    return len(grades) > 1 or sum(text in texts for text in relevant) < len(texts)


def _has_teacher(collection: Sequence[TrainingExample]) -> bool:
    """Say whether some list has two scores, so that the teacher prefers something."""
    return any(
        sum(candidate.teacher_score is not None for candidate in example.candidates) > 1 for example in collection
    )


def _located_queries(collection: Sequence[TrainingExample]) -> Iterator[tuple[str, str]]:
    return ((example.query, example.source) for example in collection)


def _check_queries(queries: Iterable[tuple[str, str]], prompt: PromptEncoder) -> None:
    count, cut = 0, []
    for query, location in queries:
        count += 1
        try:
            if prompt.fitting(query) != query:
                cut.append(location)
        except ValueError as error:
            raise DataError(str(error), location) from error
    warn_of_cut(cut, count, prompt)
