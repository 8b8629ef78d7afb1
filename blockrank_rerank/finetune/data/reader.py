"""Training data of any format, read into examples."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Literal

from blockrank_rerank.finetune.data.beir_folder import read_judged_corpus
from blockrank_rerank.finetune.data.columns import ColumnMapping
from blockrank_rerank.finetune.data.example import TrainingExample
from blockrank_rerank.finetune.data.hub import hub_rows
from blockrank_rerank.finetune.data.joined_rows import agreeing
from blockrank_rerank.finetune.data.judged_corpus import JudgedCorpus
from blockrank_rerank.finetune.data.labelled_rows import (
    LABELLED,
    labelled_columns,
    refuse_labels_beside_positives,
    useful_queries,
)
from blockrank_rerank.finetune.data.record import Record
from blockrank_rerank.finetune.data.retrieval import bm25_ranking, random_ranking
from blockrank_rerank.finetune.data.row import OnFault, Row, example_rows, refuse
from blockrank_rerank.finetune.data.row_formats import (
    ANSWERS_AMONG_DOCUMENTS,
    POSITIVES_AND_NEGATIVES,
    ROW_FORMATS,
    RowFormat,
)
from blockrank_rerank.finetune.setting_kinds import check_count
from blockrank_rerank.formats import DataError
from blockrank_rerank.system.files import UserPath, absolute, expanded, path_text

FORMATS = ("auto", *ROW_FORMATS, "beir", "hub")
Negatives = Literal["bm25", "random", "none"]
_FILE_SUFFIXES = {".jsonl", ".json", ".ndjson", ".txt", ".tsv", ".csv", ".gz"}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def read_examples(
    source: UserPath,
    *,
    split: str = "train",
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    negatives: Negatives | None = None,
    depth: int = 50,
    limit: int | None = None,
    seed: int = 0,
    judged: bool = False,
) -> list[TrainingExample]:
    """Read training data of any format.

    Parameters
    ----------
    source : str or path-like
        A JSONL file, a table (``.csv``, ``.tsv``) whose first line names its columns, a BEIR folder, any file with
        ``.gz`` after its name, or the id of a Hub dataset (``owner/name`` or ``owner/name:configuration``).
    split : str
        Which ``qrels/<split>.tsv`` of a folder, or which split of a dataset.
    format : str
        ``auto``; ``pos-neg``: rows of ``{"query", "pos", "neg"}``; ``blockrank``: rows of
        ``{"query", "documents", "answer_ids"}``; ``beir``; ``hub``, which also takes a local folder of parquet files.
        ``auto`` and ``hub`` also know labelled rows by their columns: pairs such as ``{"query", "passage", "label"}``,
        and lists such as ``{"query", "docs", "labels"}``.
    columns : mapping, optional
        Known column → the name that it has here, as in ``{"query": "question", "pos": "answer"}``.
    negatives : {"bm25", "random", "none"}, optional
        Where the negatives of queries that have none come from: by default BM25 for a BEIR folder, and nowhere
        for rows, whose lists `ListSampler` fills up at random. Judged documents, and copies of them, are never
        filled in; those of a BEIR folder judged 0 are negatives already.
    depth : int
        Most negatives per query that are filled in; with BM25, documents of its ranking that are looked at.
    limit : int, optional
        At most this many examples, drawn at random; they keep their order.
    seed : int
        Seed of that draw and of random negatives.
    judged : bool
        Whether rows are judgements to measure with, and not examples to learn from: then queries without a relevant
        document stay, and a document that is relevant to a query in one place and not in another is a fault. Rows of
        one query are not joined.

    Returns
    -------
    list of TrainingExample
        One for each row, or for each query of labelled rows that are learnt from.

    Raises
    ------
    FileNotFoundError
        If there is no such file, folder or split, and no such dataset where it may be the id of one.
    DataError
        At the first fault, with file and line; `validate` finds all.
    ImportError
        If `datasets` or bm25s is needed and missing.
    """
    check_negatives(negatives)
    check_count("depth", depth, (1 << 31) - 1, 0)
    if limit is not None:
        check_count("limit", limit, (1 << 31) - 1)
    source = expanded_source(source)
    form = resolve_format(source, format, columns)
    if form == "beir":
        corpus = read_judged_corpus(Path(source), split, refuse).sample(limit, seed)
        return _filled(corpus, negatives or "bm25", depth, seed)
    examples = list(iterate_rows(source, form, split, columns, refuse, judged))
    if limit is not None and limit < len(examples):
        examples = [examples[index] for index in sorted(random.Random(seed).sample(range(len(examples)), limit))]
    return examples if negatives in (None, "none") else _fill_bare(examples, negatives, depth, seed)


def check_negatives(negatives: str | None) -> None:
    """Refuse a value that `read_examples` does not know.

    Raises
    ------
    ValueError
        Naming those that it knows.
    """
    if negatives not in (None, "bm25", "random", "none"):
        raise ValueError(f"negatives must be bm25, random or none, got {negatives!r}")


def resolve_format(source: str | Path, format: str, columns: Mapping[str, str] | None = None) -> str:
    """Return the format's name; ``rows`` where a file's first line is to decide between the two forms of rows.

    Raises
    ------
    FileNotFoundError
        If the source is neither a file, nor a folder, nor looks like the id of a dataset.
    DataError
        If it is a file where the format is a folder's, or the other way round.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    path = Path(source)
    if format == "hub" or (format == "auto" and not path.exists() and _is_hub_id(str(source))):
        return "hub"
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {source}")
    if format != "auto" and path.is_dir() != (format == "beir"):
        raise DataError(f"expected a {'folder' if format == 'beir' else 'file'} for format {format!r}", str(source))
    if path.is_dir() and columns:
        raise ValueError(f"columns can only be mapped in rows, and {source} is a BEIR folder")
    return format if format != "auto" else "beir" if path.is_dir() else "rows"


def absolute_source(source: UserPath, format: str = "auto") -> str:
    """Return the path of a collection so that it stays the same wherever the process goes; a Hub id as it is.

    Parameters
    ----------
    source : str or path-like
        Path or Hub id.
    format : str
        As `read_examples` takes it.

    Raises
    ------
    ValueError
        For the home folder of a user that there is not.
    """
    text: str = path_text(source)
    may_be_id = format == "hub" or (format == "auto" and _is_hub_id(text))
    is_id = may_be_id and not text.startswith(("~", ".", "/")) and not Path(text).exists()
    return text if is_id else str(absolute(text, "path"))


def expanded_source(source: UserPath) -> str | Path:
    """Return the path or the Hub id of a collection, with the home folder in place of ``~``."""
    text: str = path_text(source)
    return expanded(text, "the data") if text.startswith("~") else text


def iterate_rows(
    source: str | Path,
    form: str,
    split: str,
    columns: Mapping[str, str] | None,
    on_fault: OnFault,
    judged: bool = False,
) -> Iterator[TrainingExample]:
    """Read the examples of rows, one by one.

    Parameters
    ----------
    source : str or Path
        A JSONL file, a table, or the id of a Hub dataset.
    form : str
        As `resolve_format` names it.
    split : str
        Split of a dataset.
    columns : mapping, optional
        As `read_examples` takes them.
    on_fault : OnFault
        Takes the faults.
    judged : bool
        As `read_examples` takes it.
    """
    rows = hub_rows(str(source), split) if form == "hub" else example_rows(Path(source), "example", on_fault)
    first = next(rows, None)
    if first is None:
        return
    try:
        known, columns = (ROW_FORMATS[form], columns) if form in ROW_FORMATS else _detect(first, columns)
    except DataError as fault:
        return on_fault(fault)
    may_be_empty = known.relevant if judged else None
    mapping = ColumnMapping(columns, known.known, known.required, known.ignored, may_be_empty)
    examples = _parsed(chain([first], rows), known, mapping, columns, on_fault, judged)
    if judged:
        yield from agreeing(examples)
    else:
        yield from useful_queries(examples, first.name, on_fault) if known is LABELLED else examples


def _parsed(
    rows: Iterable[Row],
    form: RowFormat,
    mapping: ColumnMapping,
    columns: Mapping[str, str] | None,
    on_fault: OnFault,
    judged: bool,
) -> Iterator[TrainingExample]:
    texts: dict[str, str] = {}
    for row in rows:
        try:
            if form is POSITIVES_AND_NEGATIVES:
                refuse_labels_beside_positives(row, columns)
            example = form.parse(Record(row, mapping.apply(row), texts))
            if form.relevant and not example.positives and not (judged and example.candidates):
                raise row.fault(
                    f'expected "{form.relevant}" to hold at least one relevant document, got none; remove the line'
                )
        except DataError as fault:
            on_fault(fault)
        else:
            yield example


def _is_hub_id(source: str) -> bool:
    # A misspelt relative path must not be looked up on the network.
    return (
        bool(_HUB_ID.fullmatch(source))
        and Path(source).suffix not in _FILE_SUFFIXES
        and not Path(source).parent.exists()
    )


def _detect(row: Row, columns: Mapping[str, str] | None) -> tuple[RowFormat, Mapping[str, str] | None]:
    """Return the form of the rows that the first one shows, and the columns that it has for those known."""
    labelled = labelled_columns(row, columns)
    if labelled is not None:
        return LABELLED, labelled
    names: set[str] = set(row.value) if isinstance(row.value, dict) else set()
    if {"documents", "answer_ids"} & (names | set(columns or ())):
        return ANSWERS_AMONG_DOCUMENTS, columns
    return POSITIVES_AND_NEGATIVES, columns


def _filled(corpus: JudgedCorpus, negatives: str, depth: int, seed: int) -> list[TrainingExample]:
    if negatives == "bm25":
        ranking = bm25_ranking(corpus, depth)
    else:
        ranking = random_ranking(corpus, 0 if negatives == "none" else depth, seed)
    return [corpus.example(query, [*corpus.negatives[query], *ranking[query]]) for query in corpus.queries]


def _fill_bare(examples: list[TrainingExample], negatives: str, depth: int, seed: int) -> list[TrainingExample]:
    bare = [number for number, example in enumerate(examples) if not example.negatives]
    corpus = JudgedCorpus.from_examples(examples).only([f"q{number}" for number in bare])
    filled = dict(zip(bare, _filled(corpus, negatives, depth, seed), strict=True))
    return [filled.get(number, example) for number, example in enumerate(examples)]
