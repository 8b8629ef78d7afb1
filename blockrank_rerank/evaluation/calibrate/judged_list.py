"""Lists of documents with judgements, from which probabilities are learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blockrank_rerank.evaluation.calibration import alike
from blockrank_rerank.evaluation.own_documents import own_documents, without_own
from blockrank_rerank.evaluation.rerank_run import first_documents
from blockrank_rerank.evaluation.task import Task
from blockrank_rerank.formats import DataError


@dataclass(frozen=True)
class JudgedList:
    """One query with candidates, and which of them are relevant.

    Parameters
    ----------
    name : str
        The query's id, for messages.
    query : str
        Its text.
    documents : tuple
        Candidates as a ranker takes them.
    relevant : tuple of bool
        Of each candidate; there may be no relevant one.
    """

    name: str
    query: str
    documents: tuple[Any, ...]
    relevant: tuple[bool, ...]

    @property
    def is_answered(self) -> bool:
        """Whether some candidate is relevant."""
        return any(self.relevant)


def lists_of_task(task: Task, depth: int, min_relevance: int) -> list[JudgedList]:
    """The first stage's candidates of each judged query; one that is not judged counts as not relevant.

    A copy of a relevant document under another id is relevant too. Queries without candidates are left out.
    """
    queries, qrels = task.collection.queries, task.collection.qrels
    others = without_own(task.first_stage, own_documents(queries, task.corpus))
    lists = []
    for query, ranking in first_documents({query: others.get(query, {}) for query in queries}, depth).items():
        documents = tuple(task.corpus[name] for name in ranking)
        # Of all judged documents: a first stage may have found the copy alone.
        judged = [name for name, grade in qrels[query].items() if grade >= min_relevance and name in task.corpus]
        found = alike(ranking, judged, task.corpus)
        relevant = tuple(name in found for name in ranking)
        lists.append(JudgedList(query, queries[query], documents, relevant))
    return [each for each in lists if each.documents]


def check_classes(lists: Sequence[JudgedList], noun: str) -> None:
    """Refuse labels that are all alike: nothing tells relevant documents from others.

    Parameters
    ----------
    lists : sequence of JudgedList
        None is for others to refuse.
    noun : str
        What they are, for the message.

    Raises
    ------
    DataError
        Saying which there are.
    """
    labels = [label for each in lists for label in each.relevant]
    if len({*labels}) == 1:
        alike = "relevant" if labels[0] else "not relevant"
        raise DataError(
            f"labels of one class only: all {len(labels):,} documents of {len(lists):,} {noun} are {alike}; "
            "calibration needs lists as the first stage gives them, with documents of both kinds"
        )
