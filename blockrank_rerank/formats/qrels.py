"""Relevance judgements of BEIR and TREC."""

from __future__ import annotations

from pathlib import Path

from blockrank_rerank.errors import DataError
from blockrank_rerank.formats.lines import read_lines

Qrels = dict[str, dict[str, int]]
"""Query id → document id → judgement."""

# Third-column titles in circulation. Anything else on line 1 is a malformed judgement and not a header.
HEADERS = {"score", "relevance", "rel", "label"}


def read_qrels(path: Path) -> Qrels:
    """Read relevance judgements.

    Parameters
    ----------
    path : Path
        BEIR's three columns (query, document, judgement; with or without a header line), or TREC's four
        (query, iteration, document, judgement).

    Raises
    ------
    DataError
        If a line is malformed, two judgements contradict each other, or there is no judgement.
    """
    qrels: Qrels = {}
    first = True
    for line, text in read_lines(path):
        query, document, judgement = split_columns(text, path, line)
        if not (first and judgement in HEADERS):
            _add(qrels, query, document, read_grade(judgement, path, line), path, line)
        first = False
    if not qrels:
        raise DataError("no judgements: expected one per line", str(path))
    return qrels


def split_columns(text: str, path: Path, line: int) -> tuple[str, str, str]:
    """Split a line of BEIR's three columns or TREC's four into query, document and judgement.

    Raises
    ------
    DataError
        For any other number of columns.
    """
    columns = text.split("\t") if "\t" in text else text.split()
    if len(columns) not in (3, 4):
        raise DataError(
            "expected 3 columns (query, document, judgement) or 4 (query, iteration, document, judgement) separated "
            f"by tabs or spaces, got {len(columns)}",
            str(path),
            line,
        )
    query, document, judgement = (column.strip() for column in (columns[0], *columns[-2:]))
    return query, document, judgement


def read_grade(judgement: str, path: Path, line: int) -> int:
    """Read a judgement as an integer.

    Raises
    ------
    DataError
        For anything else.
    """
    try:
        return int(judgement)
    except ValueError:
        raise DataError(f"expected an integer judgement, got {judgement!r}", str(path), line) from None


def _add(qrels: Qrels, query: str, document: str, judgement: int, path: Path, line: int) -> None:
    known = qrels.setdefault(query, {}).setdefault(document, judgement)
    if known != judgement:
        raise DataError(
            f"query {query!r}, document {document!r}: judged {known} above and {judgement} here; keep one",
            str(path),
            line,
        )
