"""The formats that have one example per row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from blockrank_rerank.finetune.data.example import Candidate, TrainingExample
from blockrank_rerank.finetune.data.record import Record
from blockrank_rerank.formats.jsonl import json_type


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """A way to write one example per row.

    Parameters
    ----------
    name : str
        What ``format=`` says.
    known, required : tuple of str
        Columns that are read, and those among them that must be there.
    ignored : tuple of str
        Columns of other tools' files that carry nothing for a reranker.
    parse : callable
        From a record to an example.
    relevant : str, optional
        Column that names the relevant documents, of which rows that are learnt from have some; nothing where another
        row of the query may have them.
    """

    name: str
    known: tuple[str, ...]
    required: tuple[str, ...]
    ignored: tuple[str, ...]
    parse: Callable[[Record], TrainingExample]
    relevant: str | None = None


def parse_positives_and_negatives(record: Record) -> TrainingExample:
    """Make an example of ``{"query", "pos", "neg"}``, with FlagEmbedding's names for teacher scores.

    Raises
    ------
    DataError
        If it has numbers that do not fit the documents.
    """
    candidates = [*_positives(record), *_negatives(record)]
    _check_scored_alike(record)
    return TrainingExample(record.query(), tuple(candidates), record.row.source, record.identifier("query_id"))


def parse_answers_among_documents(record: Record) -> TrainingExample:
    """Make an example of ``{"query", "documents", "answer_ids"}``, as BlockRank's data was released.

    An answer names a document's ``doc_id``, or its 0-based place in the list where it has none.

    Raises
    ------
    DataError
        If there is no document, an answer names a document that is not in the list, or two documents have one name,
        so that an answer would make both relevant.
    """
    texts = record.documents("documents")
    if not texts:
        raise record.fault('expected "documents" to hold at least one document, got none')
    names = [_name(record, item, index) for index, item in enumerate(record.items("documents"))]
    _refuse_repeated(record, names)
    answers = _answers(record, names)
    candidates = (Candidate(text, 1.0 if name in answers else 0.0) for text, name in zip(texts, names, strict=True))
    return TrainingExample(record.query(), tuple(candidates), record.row.source, record.identifier("query_id"))


POSITIVES_AND_NEGATIVES = RowFormat(
    name="pos-neg",
    known=("query", "query_id", "pos", "neg", "pos_grades", "pos_scores", "neg_scores"),
    required=("query", "pos"),
    ignored=("prompt", "type", "pos_id", "neg_id"),  # FlagEmbedding's mined files hold these
    parse=parse_positives_and_negatives,
    relevant="pos",
)
ANSWERS_AMONG_DOCUMENTS = RowFormat(
    name="blockrank",
    known=("query", "query_id", "documents", "answer_ids"),
    required=("query", "documents", "answer_ids"),
    ignored=(),
    parse=parse_answers_among_documents,
    relevant="answer_ids",
)
ROW_FORMATS = {form.name: form for form in (POSITIVES_AND_NEGATIVES, ANSWERS_AMONG_DOCUMENTS)}


def _positives(record: Record) -> list[Candidate]:
    texts = record.documents("pos")
    grades = record.numbers("pos_grades", len(texts), "pos") or [1.0] * len(texts)
    scores = record.numbers("pos_scores", len(texts), "pos") or [None] * len(texts)
    return [
        Candidate(text, _positive_grade(record, grade), score)
        for text, grade, score in zip(texts, grades, scores, strict=True)
    ]


def _negatives(record: Record) -> list[Candidate]:
    texts = record.documents("neg")
    scores = record.numbers("neg_scores", len(texts), "neg") or [None] * len(texts)
    return [Candidate(text, 0.0, score) for text, score in zip(texts, scores, strict=True)]


def _positive_grade(record: Record, grade: float | None) -> float:
    if grade is None or grade <= 0:
        found = "null" if grade is None else f"{grade:g}"
        raise record.fault(f'expected "pos_grades" above 0, got {found}; documents of grade 0 belong in "neg"')
    return record.grade(grade, '"pos_grades"')


def _check_scored_alike(record: Record) -> None:
    for scored, other, documents in (("pos_scores", "neg_scores", "neg"), ("neg_scores", "pos_scores", "pos")):
        if scored in record and other not in record and record.items(documents):
            raise record.fault(f'expected "{other}" beside "{scored}": a teacher\'s scores are of use for all or none')


def _name(record: Record, item: object, index: int) -> str:
    if not isinstance(item, dict) or item.get("doc_id") is None:
        return str(index)
    name = item["doc_id"]
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise record.fault(f'expected documents[{index}]["doc_id"] to be a string or an integer, got {json_type(name)}')
    return str(name)


def _refuse_repeated(record: Record, names: list[str]) -> None:
    indices: dict[str, int] = {}
    for index, name in enumerate(names):
        first = indices.setdefault(name, index)
        if first != index:
            raise record.fault(
                f'expected every "doc_id" once, got {name!r} for documents[{first}] and documents[{index}]; '
                "a document without one is named by its 0-based place; remove or rename one of the two"
            )


def _answers(record: Record, names: list[str]) -> set[str]:
    answers = record.items("answer_ids")
    for answer in answers:
        if isinstance(answer, bool) or not isinstance(answer, str | int):
            raise record.fault(f'expected "answer_ids" to hold strings or integers, got {json_type(answer)}')
        if str(answer) not in names:
            raise record.fault(f'"answer_ids" names {str(answer)!r}, which is not in "documents": {_some(names)}')
    return {str(answer) for answer in answers}


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
