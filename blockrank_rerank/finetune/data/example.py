"""A query with its labelled documents, which all training data becomes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """One document of a training list.

    Parameters
    ----------
    text : str
        Title and text joined as `blockrank_rerank.text.document.document_text` does.
    grade : float
        Above 0 for a relevant document, graded labels being kept as grades; 0 for any other.
    teacher_score : float, optional
        What a teacher model thinks of it; comparable within one list only.
    """

    text: str
    grade: float
    teacher_score: float | None = None

    @property
    def relevant(self) -> bool:
        """Say whether the document answers the query, as its grade has it."""
        return self.grade > 0


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One query with its labelled candidates.

    Parameters
    ----------
    query : str
        Never blank.
    candidates : tuple of Candidate
        At least one is relevant, but for rows that were read as `judged`.
    source : str
        ``path:line``, for messages.
    query_id : str, optional
        Where the data has one.
    """

    query: str
    candidates: tuple[Candidate, ...]
    source: str
    query_id: str | None = None

    @property
    def positives(self) -> tuple[Candidate, ...]:
        """Return the relevant candidates."""
        return tuple(candidate for candidate in self.candidates if candidate.relevant)

    @property
    def negatives(self) -> tuple[Candidate, ...]:
        """Return the candidates that are not relevant."""
        return tuple(candidate for candidate in self.candidates if not candidate.relevant)


def document_pool(examples: Iterable[TrainingExample]) -> list[str]:
    """Return every document of the examples once, in order of appearance: a pool for `ListSampler`."""
    return list(dict.fromkeys(candidate.text for example in examples for candidate in example.candidates))
