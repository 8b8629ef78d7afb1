"""Training data of BEIR folders."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from blockrank_rerank.evaluation.own_documents import own_documents
from blockrank_rerank.finetune.data.judged_corpus import JudgedCorpus, relevant_by_text
from blockrank_rerank.finetune.data.row import Noted, OnFault, Row, jsonl_rows, text_rows
from blockrank_rerank.formats import Corpus, DataError
from blockrank_rerank.formats.collection import beir_file, qrels_path
from blockrank_rerank.formats.jsonl import identifier_field, json_type, optional_string_field, string_field
from blockrank_rerank.formats.qrels import JudgementLines
from blockrank_rerank.text.document import document_text


@dataclass(frozen=True, slots=True)
class Judgement:
    """One line of qrels, with where it stands."""

    row: Row
    query: str
    document: str
    grade: int


def read_judged_corpus(folder: Path, split: str, on_fault: OnFault) -> JudgedCorpus:
    """Read a BEIR folder into a corpus to train on.

    Unlike `formats.read_collection` it knows the lines of the judgements, and can go on after a fault.

    Parameters
    ----------
    folder : Path
        Holds ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``.
    split : str
        Name of the judgements.
    on_fault : OnFault
        Takes malformed lines, ids that appear twice, judgements of missing texts.

    Raises
    ------
    FileNotFoundError
        If a file is missing; names the splits that there are.
    """
    path_of_qrels = qrels_path(folder, split)
    titles: dict[str, str] = {}
    documents = _read_texts(beir_file(folder, "corpus.jsonl"), "document", on_fault, titles)
    queries = _read_texts(beir_file(folder, "queries.jsonl"), "query", on_fault)
    known = [*_known(_judgements(path_of_qrels, on_fault), queries, documents, folder, on_fault)]
    corpus = _judged_corpus(documents, queries, known, _own_documents(queries, documents, titles))
    judged = len({judgement.query for judgement in known})
    if not corpus.queries:
        on_fault(DataError(f"no query of split {split!r} has a document judged above 0", str(path_of_qrels)))
    elif len(corpus.queries) < judged:
        warnings.warn(
            f"{path_of_qrels}: {judged - len(corpus.queries):,} of {judged:,} judged queries have no document judged "
            "above 0 and are left out",
            stacklevel=2,
        )
    return corpus


def _read_texts(path: Path, noun: str, on_fault: OnFault, titles: dict[str, str] | None = None) -> dict[str, str]:
    texts: dict[str, str] = {}
    for row in jsonl_rows(path, noun, on_fault):
        try:
            name, text = _named_text(row)
            if name in texts:
                raise row.fault(f'expected every "_id" once, got {name!r} again')
            texts[name] = text
            if titles is not None and row.value.get("title"):
                titles[name] = row.value["title"]
            if noun == "query" and not text.strip():
                raise row.fault('expected "text" to hold text, got an empty one; remove the query')
        except DataError as fault:
            on_fault(fault)
    return texts


def _named_text(row: Row) -> tuple[str, str]:
    record = row.value
    if not isinstance(record, dict) or "_id" not in record or "text" not in record:
        found = f"keys {sorted(record)}" if isinstance(record, dict) else json_type(record)
        raise row.fault(f'expected a JSON object with "_id" and "text", got {found}')
    text = string_field(record, "text", row.name, row.line)
    title = optional_string_field(record, "title", row.name, row.line)
    return identifier_field(record, "_id", row.name, row.line), document_text({"title": title, "text": text}, 0)


def _judgements(path: Path, on_fault: OnFault) -> Iterator[Judgement]:
    noted = Noted(on_fault)
    empty = True
    judgements = JudgementLines(path)
    for row in text_rows(path, noted):
        try:
            judged = judgements.read(row.value, row.line)
            if judged:
                empty = False
                yield Judgement(row, *judged)
        except DataError as fault:
            empty = False
            on_fault(fault)
    if empty and not noted.faults:
        on_fault(DataError("no judgements: expected one per line", str(path)))


def _known(
    judgements: Iterator[Judgement],
    queries: dict[str, str],
    documents: dict[str, str],
    folder: Path,
    on_fault: OnFault,
) -> Iterator[Judgement]:
    seen: dict[tuple[str, str], int] = {}
    for judgement in judgements:
        pair = judgement.query, judgement.document
        if judgement.query not in queries:
            on_fault(judgement.row.fault(f"query {judgement.query!r} is judged but has no text in queries.jsonl"))
        elif judgement.document not in documents:
            on_fault(judgement.row.fault(f"document {judgement.document!r} is judged but is not in corpus.jsonl"))
        elif seen.setdefault(pair, judgement.grade) != judgement.grade:
            on_fault(
                judgement.row.fault(
                    f"query {pair[0]!r}, document {pair[1]!r}: judged {seen[pair]} above and {judgement.grade} here; "
                    "keep one"
                )
            )
        elif queries[judgement.query].strip():  # an empty one has been reported with its own line
            yield judgement


def _own_documents(queries: dict[str, str], documents: dict[str, str], titles: dict[str, str]) -> frozenset[str]:
    """Return the ids of queries that are themselves documents."""
    corpus: Corpus = {
        query: {"title": "", "text": documents[query].removeprefix(titles.get(query, ""))}
        for query in queries.keys() & documents.keys()
    }
    whole: Corpus = {query: documents[query] for query in corpus}
    return own_documents(queries, corpus) | own_documents(queries, whole)


def _judged_corpus(
    documents: dict[str, str], queries: dict[str, str], judgements: Iterable[Judgement], itself: frozenset[str]
) -> JudgedCorpus:
    only = {text: name for name, text in reversed(documents.items())}  # the first id of every text
    grades: dict[str, dict[str, int]] = {}
    sources: dict[str, str] = {}
    for judgement in judgements:
        name = only[documents[judgement.document]]
        judged = grades.setdefault(judgement.query, {})
        judged[name] = max(judged.get(name, judgement.grade), judgement.grade)
        sources.setdefault(judgement.query, judgement.row.source)
    trained = {query: queries[query] for query, judged in grades.items() if max(judged.values()) > 0}
    own = {query: only[documents[query]] for query in trained if query in itself}
    positives = {query: {name: float(g) for name, g in grades[query].items() if g > 0} for query in trained}
    return JudgedCorpus(
        documents={name: text for name, text in documents.items() if only[text] == name},
        copies={name: only[text] for name, text in documents.items() if only[text] != name},
        queries=trained,
        query_ids={query: query for query in trained},
        sources=sources,
        positives=positives,
        relevant=relevant_by_text(trained, positives),
        negatives={
            query: [name for name, g in grades[query].items() if g <= 0 and name != own.get(query)] for query in trained
        },
        negatives_are_judged=True,
        documents_have_ids=True,
        teacher_scores={},
        own=own,
    )
