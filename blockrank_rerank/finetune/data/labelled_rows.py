"""Rows whose documents have labels: one pair with a label, or a list of documents with a list of labels."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from blockrank_rerank.errors import DataError
from blockrank_rerank.finetune.data.columns import column_mapping
from blockrank_rerank.finetune.data.example import Candidate, TrainingExample
from blockrank_rerank.finetune.data.joined_rows import joined
from blockrank_rerank.finetune.data.record import Record, unfolded
from blockrank_rerank.finetune.data.row import OnFault, Row
from blockrank_rerank.finetune.data.row_formats import RowFormat
from blockrank_rerank.formats.jsonl import json_type

LABEL_NAMES = frozenset(
    [
        "label",
        "labels",
        "relevance",
        "relevances",
        "relevant",
        "is_relevant",
        "is_selected",
        "grade",
        "grades",
        "rating",
        "judgement",
        "judgment",
        "target",
        "gold",
    ]
)
SCORE_NAMES = frozenset(["score", "scores", "similarity", "teacher_score", "teacher_scores"])
NAMES: dict[str, frozenset[str]] = {
    "query": frozenset(["query", "question", "anchor", "search_query", "query_text", "sentence1"]),
    "query_id": frozenset(("query_id", "qid")),
    "document": frozenset(
        [
            "document",
            "documents",
            "doc",
            "docs",
            "passage",
            "passages",
            "text",
            "texts",
            "context",
            "contexts",
            "candidate",
            "candidates",
            "chunk",
            "chunks",
            "content",
            "answer",
            "response",
            "sentence2",
        ]
    ),
    "label": LABEL_NAMES,
    "score": SCORE_NAMES,
}
"""Column → the names, in lower case, that people give it."""

RELEVANT_FROM = 0.5
"""Label between 0 and 1 from which on a document counts as relevant."""


def labelled_columns(row: Row, columns: Mapping[str, str] | None) -> dict[str, str] | None:
    """Find the columns of a row that labels its documents.

    Parameters
    ----------
    row : Row
        The first row of the data.
    columns : mapping, optional
        Known column → the name that it has here, where a user says so.

    Returns
    -------
    dict, optional
        Known column → the data's; nothing for a row of another form.

    Raises
    ------
    DataError
        If two columns may be the same thing.
    """
    mapped = dict(columns or {})
    if not isinstance(row.value, dict) or {"pos", "answer_ids"} & ({*mapped} | {*row.value} - {*mapped.values()}):
        return None
    alike = {known: _alike(row, known, mapped) for known in NAMES}
    if not alike["document"] or not (alike["label"] or alike["score"] or _has_inner_labels(row, alike["document"][0])):
        return None
    if not alike["label"]:
        alike["label"] = alike.pop("score")
    for known, names in alike.items():
        if len(names) > 1:
            raise row.fault(
                f'several columns may be the "{known}": {", ".join(map(repr, names))}; name it: '
                f"{column_mapping({known: names[0]})}"
            )
    return {known: names[0] for known, names in alike.items() if names}


def parse_labelled(record: Record) -> TrainingExample:
    """Make an example of labelled documents; it may have no positive before it is joined with others of its query.

    Raises
    ------
    DataError
        If labels are missing, do not fit the documents, or have no one meaning.
    """
    texts = record.documents("document") if "title" not in record else record.titled_documents("document", "title")
    if not texts:
        raise record.fault('expected "document" to hold at least one document, got none; remove the line')
    labels = [_number(record, label, "label") for label in _labels(record, len(texts))]
    scores: list[float | None] = [None] * len(texts)
    if "score" in record:
        scores = [_number(record, score, "score") for score in _beside(record, "score", len(texts))]
    elif not all(map(float.is_integer, labels)):
        scores = [*labels]
    grades = _grades(record, labels)
    candidates = tuple(map(Candidate, texts, grades, scores))
    return TrainingExample(record.query(), candidates, record.row.source, record.identifier("query_id"))


LABELLED = RowFormat(
    name="labelled",
    known=("query", "query_id", "document", "title", "label", "score"),
    required=("query", "document"),
    ignored=("id", "_id", "idx", "doc_id", "document_id", "docid", "pid", "passage_id", "corpus_id"),
    parse=parse_labelled,
)


def useful_queries(rows: Iterable[TrainingExample], name: str, on_fault: OnFault) -> Iterator[TrainingExample]:
    """Join the rows of each query, and leave out queries without a relevant document.

    Parameters
    ----------
    rows : iterable of TrainingExample
        As `parse_labelled` makes them.
    name : str
        Of the data, for messages.
    on_fault : OnFault
        Takes the fault that no query is left.
    """
    examples = joined(rows)
    useful = [example for example in examples if example.positives]
    if examples and not useful:
        on_fault(DataError("no query has a document labelled as relevant (above 0): there is nothing to learn", name))
    elif len(useful) < len(examples):
        warnings.warn(
            f"{name}: {len(examples) - len(useful):,} of {len(examples):,} queries have no document labelled as "
            "relevant (above 0) and are left out",
            stacklevel=2,
        )
    yield from useful


def refuse_labels_beside_positives(row: Row, columns: Mapping[str, str] | None) -> None:
    """Refuse a row whose only documents are called positives while a label beside them says otherwise.

    Parameters
    ----------
    row : Row
        With all its columns.
    columns : mapping, optional
        Known column → the name that it has here.

    Raises
    ------
    DataError
        Naming both columns, and how to have them read.
    """
    pos, neg = ((columns or {}).get(known, known) for known in ("pos", "neg"))
    if not isinstance(row.value, dict) or pos not in row.value or row.value.get(neg):
        return
    for name, label in row.value.items():
        if name.lower() in LABEL_NAMES | SCORE_NAMES and _calls_irrelevant(label):
            raise row.fault(
                f'column "{name}" says that a document is not relevant, and "{pos}" is read as holding relevant ones '
                f"alone; have both read: {column_mapping({'document': pos, 'label': name})}"
            )


def _calls_irrelevant(label: Any) -> bool:
    if isinstance(label, list | tuple):
        return any(map(_calls_irrelevant, label))
    if isinstance(label, str) and label.strip().lower() == "false":
        return True
    try:
        return float(label) < RELEVANT_FROM
    except (TypeError, ValueError, OverflowError):
        return False


def _alike(row: Row, known: str, mapped: Mapping[str, str]) -> list[str]:
    if known in mapped:
        return [mapped[known]]
    free = [name for name in row.value if name not in mapped.values() and row.value[name] is not None]
    return [name for name in free if name.lower() in NAMES[known]]


def _has_inner_labels(row: Row, document: str) -> bool:
    items = unfolded(row.value.get(document))
    if isinstance(items, dict) and items and all(isinstance(found, list | tuple) for found in items.values()):
        counts = ", ".join(f'"{name}" {len(found)}' for name, found in items.items())
        raise row.fault(f'expected the lists of "{document}" to have one length, got {counts}')
    return isinstance(items, list) and bool(items) and _inner_label(items[0]) is not None


def _inner_label(item: Any) -> str | None:
    names = [name for name in item if name.lower() in LABEL_NAMES] if isinstance(item, dict) else []
    names += [name for name in item if name.lower() in SCORE_NAMES] if isinstance(item, dict) else []
    return names[0] if names else None


def _labels(record: Record, count: int) -> list[Any]:
    if "label" in record:
        return _beside(record, "label", count)
    items = record.items("document")
    names = [_inner_label(item) for item in items]
    if None in names:
        raise record.fault(f'expected a "label" for every document, got none for document[{names.index(None)}]')
    return [item[name] for item, name in zip(items, names, strict=True)]


def _beside(record: Record, key: str, count: int) -> list[Any]:
    value = record.value(key)
    values = list(value) if isinstance(value, list | tuple) else [value]
    if isinstance(value, list | tuple) == isinstance(record.value("document"), str) or len(values) != count:
        found = f"{len(values)}" if isinstance(value, list | tuple) else json_type(value)
        raise record.fault(f'expected "{key}" to be a number for each of the {count} documents, got {found}')
    return values


def _number(record: Record, value: Any, key: str) -> float:
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        value = value.strip().lower() == "true"
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise record.fault(
            f'expected "{key}" to be a number or true and false, got {value!r:.80}; 0 is not relevant'
        ) from None
    return record.finite(number, key)


def _grades(record: Record, labels: list[float]) -> list[float]:
    if all(map(float.is_integer, labels)):
        return [record.grade(max(label, 0.0), '"label"') for label in labels]
    if not all(0 <= label <= 1 for label in labels):
        raise record.fault(
            f'expected "label" to be whole numbers (grades; 0 is not relevant) or numbers from 0 to 1, got '
            f'{", ".join(f"{label:g}" for label in labels[:5])}; a teacher\'s scores are a column "score" beside '
            '"label"'
        )
    warnings.warn(
        f"{record.row.name}: labels between 0 and 1: from {RELEVANT_FROM} on a document counts as relevant, and the "
        "numbers serve as a teacher's scores",
        stacklevel=2,
    )
    return [float(label >= RELEVANT_FROM) for label in labels]
