"""The rows of one query, joined into one example."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from blockrank_rerank.errors import DataError, shown_ids
from blockrank_rerank.finetune.data.example import Candidate, TrainingExample


def query_key(query: str) -> str:
    """Return what two queries have in common that differ in white space alone."""
    return " ".join(query.split())


def joined(examples: Iterable[TrainingExample]) -> list[TrainingExample]:
    """Join the examples of one query, so that the positive of one row is never a negative of another.

    Parameters
    ----------
    examples : iterable of TrainingExample
        One query may have several.

    Returns
    -------
    list of TrainingExample
        One for each query, in order of first appearance. A document that several rows name counts once, with its
        highest grade and its first teacher's score. Query id and source are those of the first row.
    """
    groups: dict[str, list[TrainingExample]] = {}
    for example in examples:
        groups.setdefault(query_key(example.query), []).append(example)
    return [group[0] if len(group) == 1 else _joined(group) for group in groups.values()]


def agreeing(examples: Iterable[TrainingExample]) -> Iterator[TrainingExample]:
    """Pass examples on, as long as no document is relevant to a query in one place and not in another.

    Raises
    ------
    DataError
        For the first contradiction, with both places.
    """
    known: dict[tuple[str, str], tuple[bool, str]] = {}
    for example in examples:
        query = query_key(example.query)
        for candidate in example.candidates:
            relevant, source = known.setdefault((query, candidate.text), (candidate.relevant, example.source))
            if relevant != candidate.relevant:
                here, there = ("relevant", "not relevant") if candidate.relevant else ("not relevant", "relevant")
                raise DataError(
                    f"labels contradict: {shown_ids([candidate.text])} is {here} here to {shown_ids([query])}, and "
                    f"{there} in {source}; keep one",
                    example.source,
                )
        yield example


def relevant_texts(examples: Iterable[TrainingExample]) -> dict[str, set[str]]:
    """Return for every query, by its `query_key`, the texts that any example calls relevant to it."""
    relevant: dict[str, set[str]] = {}
    for example in examples:
        texts = {candidate.text for candidate in example.candidates if candidate.relevant}
        relevant.setdefault(query_key(example.query), set()).update(texts)
    return relevant


def _joined(examples: list[TrainingExample]) -> TrainingExample:
    candidates: dict[str, Candidate] = {}
    for example in examples:
        for candidate in example.candidates:
            earlier = candidates.setdefault(candidate.text, candidate)
            candidates[candidate.text] = _merged(earlier, candidate)
    return replace(examples[0], candidates=tuple(candidates.values()))


def _merged(first: Candidate, second: Candidate) -> Candidate:
    score = second.teacher_score if first.teacher_score is None else first.teacher_score
    return replace(first, grade=max(first.grade, second.grade), teacher_score=score)
