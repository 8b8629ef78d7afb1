"""Documents of files are ranked for a query, and the ranking is printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from blockrank_rerank.cli.console import is_unicode, literal, print_json, print_line, print_note, print_table
from blockrank_rerank.cli.document_files import naming_documents
from blockrank_rerank.cli.explained import print_explained
from blockrank_rerank.cli.options import ModelOptions
from blockrank_rerank.cli.ranker import load_ranker
from blockrank_rerank.formats import FileDocument
from blockrank_rerank.ranking.results import Limits, Ranking

if TYPE_CHECKING:
    from blockrank_rerank import RankedDocument

Documents = Sequence[FileDocument] | Mapping[int, FileDocument]
"""By their indices in a ranking."""

TRUNCATED_MARK = "*"
NAME_WIDTH = 32
UNANSWERED = 0.3
"""Likelihood that some document answers, below which it is said: of such lists few do (docs/calibration.md)."""


def rerank_documents(
    query: str,
    documents: Sequence[FileDocument],
    limits: Limits,
    explain: bool,
    deadline_ms: float | None,
    as_json: bool,
    model_options: ModelOptions,
) -> None:
    """Rank the documents of files and print the ranking."""
    ranker = load_ranker(model_options)
    contents = [document.content for document in documents]
    wanted = asdict(limits) | ({} if deadline_ms is None else {"deadline_ms": deadline_ms})
    with naming_documents(documents):
        explanation = ranker.explain(query, contents, **wanted) if explain else None
        ranking = ranker.rank(query, contents, **wanted) if explanation is None else explanation.ranking
    explained = [] if explanation is None else explanation.documents
    if as_json:
        records = [record(rank, ranked, documents[ranked.index]) for rank, ranked in enumerate(ranking, start=1)]
        for entry, document_explained in zip(records, explained, strict=False):
            entry["highlights"] = document_explained.highlights
        print_json(records)
        for note in (*_unread(ranking, deadline_ms is not None), *unanswered(ranking)):
            print_note(note)
    else:
        print_ranking(ranking, documents, len(documents), deadline_ms is not None)
        print_explained(explained)


def record(rank: int, ranked: RankedDocument, document: FileDocument) -> dict[str, Any]:
    """Return one document of a ranking as JSON has it."""
    return {
        "rank": rank,
        "index": ranked.index,
        "id": document.id,
        "source": document.source,
        "score": ranked.score,
        "raw_score": ranked.raw_score,
        "probability": ranked.probability,
        "truncated": ranked.truncated,
        "passage": ranked.passage,
        "pruned": ranked.pruned,
        "layers_read": ranked.layers_read,
        "unreadable": ranked.unreadable,
        "title": document.title,
        "text": document.text,
        "metadata": document.metadata,
    }


def print_ranking(ranking: Ranking, documents: Documents, count: int, of_deadline: bool = False) -> None:
    """Print a ranking of so many documents: as a table, or as lines for a program."""
    whole = _is_read_by_a_program()
    if whole:
        _print_lines(ranking, documents)
    elif ranking:
        print_table(_table(ranking, documents))
    for note in _notes(ranking, count, of_deadline):
        print_line(note, error=whole)


def _is_read_by_a_program() -> bool:
    """Whether the output goes into a pipe or file, for which nobody has named a width."""
    return not sys.stdout.isatty() and "COLUMNS" not in os.environ


def _unread(ranking: Ranking, of_deadline: bool) -> Iterator[str]:
    """What became of documents that limits left out, and that nobody has read to the end."""
    how = "not read to the end by then (--deadline-ms)" if of_deadline else "dropped by early layers (--prune)"
    if unread := ranking.pruned - sum(ranked.pruned for ranked in ranking):
        yield f"{unread} of those left out were {how}"


def unanswered(ranking: Ranking) -> Iterator[str]:
    """Say so where a list may hold no answer."""
    if ranking.answerable is not None and ranking.answerable < UNANSWERED:
        yield f"maybe none of them answers it: {ranking.answerable:.0%} likely that some document does"


def _notes(ranking: Ranking, count: int, of_deadline: bool) -> Iterator[str]:
    if len(ranking) < count:
        yield f"{len(ranking)} of {count} documents shown"
    yield from _unread(ranking, of_deadline)
    unread = sum(ranked.layers_read == 0 for ranked in ranking)
    early = sum(ranked.pruned for ranked in ranking) - unread
    if early and not of_deadline:
        yield f"the last {early} were dropped by early layers (--prune), in the order of their scores there"
    elif early or unread:
        yield (
            f"the last {early + unread} were not read to the end by then (--deadline-ms): {early} by early layers "
            f"alone, in the order of their scores there, and {unread} not at all"
        )
    yield from unanswered(ranking)
    truncated = sum(ranked.truncated for ranked in ranking)
    if truncated:
        yield (
            f"{TRUNCATED_MARK} {truncated} of these documents were longer than the model reads and were cut "
            "(--max-document-tokens)"
        )


def _print_lines(ranking: Sequence[RankedDocument], documents: Documents) -> None:
    """Print whole names and texts, with tabs between the columns."""
    print_line("\t".join(("rank", "score", "probability", "document", "text")))
    for rank, ranked in enumerate(ranking, start=1):
        document = documents[ranked.index]
        name = f"{_mark(ranked)}{document.id or document.source}"
        cells = (literal(text, None).plain for text in (name, _titled(document)))
        print_line("\t".join((str(rank), f"{ranked.score:.4f}", _probability(ranked), *cells)))


def _table(ranking: Sequence[RankedDocument], documents: Documents) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    # On a narrow terminal names and texts shrink, numbers do not.
    table.add_column("rank", justify="right", no_wrap=True, min_width=4)
    table.add_column("score", justify="right", no_wrap=True, min_width=6)
    with_probability = any(ranked.probability is not None for ranked in ranking)
    if with_probability:
        table.add_column("prob.", justify="right", no_wrap=True, min_width=5)
    table.add_column("document", no_wrap=True)
    table.add_column("text")
    for rank, ranked in enumerate(ranking, start=1):
        document = documents[ranked.index]
        probability = [_probability(ranked)] if with_probability else []
        table.add_row(
            str(rank), f"{ranked.score:.4f}", *probability, literal(_mark(ranked) + _name(document)), _text(document)
        )
    return table


def _mark(ranked: RankedDocument) -> str:
    return TRUNCATED_MARK if ranked.truncated else ""


def _titled(document: FileDocument) -> str:
    return f"{document.title} | {document.text}" if document.title else document.text


def _probability(ranked: RankedDocument) -> str:
    return "" if ranked.probability is None else f"{ranked.probability:.3f}"


def _name(document: FileDocument) -> str:
    name = document.id or document.source
    # A path says most at its end: file name and line.
    width = min(NAME_WIDTH, get_terminal_size().columns // 3)
    return name if len(name) <= width else f"{_ellipsis()}{name[-width:]}"


def _text(document: FileDocument) -> Text:
    shown = literal(_titled(document))
    shown.no_wrap = True
    shown.overflow = "ellipsis" if _ellipsis() else "crop"
    return shown


def _ellipsis() -> str:
    # An ASCII terminal has none, and six characters of escape would stand there instead.
    return "…" if is_unicode(sys.stdout) else ""
