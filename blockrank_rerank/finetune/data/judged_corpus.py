"""Queries and judgements over one corpus, from which negatives are chosen."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from blockrank_rerank.finetune.data.example import Candidate, TrainingExample
from blockrank_rerank.finetune.data.joined_rows import query_key

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class JudgedCorpus:
    """Queries, the documents around them, and what is known about their pairs.

    Every text has one document id only: a copy of a relevant document under another id would otherwise be
    mined as a negative.

    Parameters
    ----------
    documents : dict
        Document id → text.
    copies : dict
        Id of every document left out because its text is that of another → the other's id.
    queries : dict
        Key → text, for queries with a positive. Keys are query ids where these are unique.
    query_ids : dict
        Key → query id, where the data has one.
    sources : dict
        Key → ``path:line``.
    positives : dict
        Key → document id → grade, above 0.
    relevant : dict
        Key → ids of the documents that are relevant to its text under this key or any other: where the data
        has one row per pair, one row's answer must not become a negative of another row of the same query.
    negatives : dict
        Key → ids of documents given as not relevant.
    negatives_are_judged : bool
        Whether someone looked at those, so that no teacher needs to be asked about them.
    documents_have_ids : bool
        Whether document ids are those of the data, and not made up for rows, which have none.
    teacher_scores : dict
        Key → document id → score that the data has.
    own : dict
        Key → id of the document that is the query itself; it is never a negative.
    """

    documents: dict[str, str]
    copies: dict[str, str]
    queries: dict[str, str]
    query_ids: dict[str, str | None]
    sources: dict[str, str]
    positives: dict[str, dict[str, float]]
    relevant: dict[str, set[str]]
    negatives: dict[str, list[str]]
    negatives_are_judged: bool
    documents_have_ids: bool
    teacher_scores: dict[str, dict[str, float]]
    own: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_examples(cls, examples: Sequence[TrainingExample]) -> JudgedCorpus:
        """Put the documents of all examples together, as one corpus."""
        texts = dict.fromkeys(candidate.text for example in examples for candidate in example.candidates)
        names = {text: f"d{number}" for number, text in enumerate(texts)}
        keyed = {f"q{number}": example for number, example in enumerate(examples)}
        positives = {
            key: {names[candidate.text]: candidate.grade for candidate in example.positives}
            for key, example in keyed.items()
        }
        queries = {key: example.query for key, example in keyed.items()}
        relevant = relevant_by_text(queries, positives)
        negatives = {
            key: list(dict.fromkeys(names[candidate.text] for candidate in example.negatives))
            for key, example in keyed.items()
        }
        return cls(
            documents={name: text for text, name in names.items()},
            copies={},
            queries=queries,
            query_ids={key: example.query_id for key, example in keyed.items()},
            sources={key: example.source for key, example in keyed.items()},
            positives=positives,
            relevant=relevant,
            negatives={key: [name for name in found if name not in relevant[key]] for key, found in negatives.items()},
            negatives_are_judged=False,
            documents_have_ids=False,
            teacher_scores={
                key: {
                    names[found.text]: found.teacher_score
                    for found in example.candidates
                    if found.teacher_score is not None
                }
                for key, example in keyed.items()
            },
        )

    def judged(self, query: str) -> set[str]:
        """Return the documents that must not be mined as negatives of a query."""
        own = {self.own[query]} if query in self.own else set()
        return self.relevant[query] | set(self.negatives[query]) | own

    def sample(self, limit: int | None, seed: int) -> JudgedCorpus:
        """Draw at most `limit` queries at random; they keep their order, and all documents stay."""
        if limit is None or limit >= len(self.queries):
            return self
        return self.only(random.Random(seed).sample(list(self.queries), limit))

    def only(self, queries: Collection[str]) -> JudgedCorpus:
        """Leave out all but some queries; all documents stay."""
        wanted = set(queries)
        return replace(self, queries={key: text for key, text in self.queries.items() if key in wanted})

    def without(self, queries: Collection[str], documents: Collection[str]) -> JudgedCorpus:
        """Leave out some query ids, and some documents with their copies; a query needs a positive to stay.

        Raises
        ------
        ValueError
            For ids of what has none in the data, so that nothing would be left out.
        """
        if not queries and not documents:
            return self
        if documents and not self.documents_have_ids:
            raise ValueError(
                "exclude_documents needs documents with ids, those of a BEIR folder, got rows, which have none: remove "
                "the rows that hold these documents"
            )
        if queries and not any(self.query_ids.values()):
            raise ValueError(
                "exclude_queries needs queries with ids, got rows without any: add a column query_id, or remove the "
                "rows of these queries"
            )
        documents = {self.copies.get(name, name) for name in documents}
        positives = {key: _without(judged, documents) for key, judged in self.positives.items()}
        # By the data's ids: the keys of rows are made up.
        remaining = {key for key in self.queries if positives[key] and self.query_ids[key] not in queries}
        rest = replace(
            self,
            documents=_without(self.documents, documents),
            positives=positives,
            negatives={key: [name for name in found if name not in documents] for key, found in self.negatives.items()},
        )
        return rest.only(remaining)

    def example(self, query: str, negatives: Sequence[str]) -> TrainingExample:
        """Make an example of a query, its positives and the negatives named, with scores if the data scores all."""
        grades = self.positives[query] | dict.fromkeys(negatives, 0.0)
        scores = self.teacher_scores.get(query, {})
        if not grades.keys() <= scores.keys():
            scores = {}  # a row has scores of all its documents or of none
        candidates = tuple(Candidate(self.documents[name], grade, scores.get(name)) for name, grade in grades.items())
        return TrainingExample(self.queries[query], candidates, self.sources[query], self.query_ids[query])


def relevant_by_text(queries: Mapping[str, str], positives: Mapping[str, Collection[str]]) -> dict[str, set[str]]:
    """Return for every key the documents that are relevant to any query of the same words."""
    relevant: dict[str, set[str]] = {}
    for key, text in queries.items():
        relevant.setdefault(query_key(text), set()).update(positives[key])
    return {key: relevant[query_key(text)] for key, text in queries.items()}


def _without(values: dict[str, T], names: Collection[str]) -> dict[str, T]:
    return {key: value for key, value in values.items() if key not in names}
