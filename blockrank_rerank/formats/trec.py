"""TREC runs, read and written."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from blockrank_rerank.errors import DataError
from blockrank_rerank.formats.lines import read_lines
from blockrank_rerank.formats.run_lines import RunLines
from blockrank_rerank.system.files import UserPath, expanded, replacing

Run = dict[str, dict[str, float]]
"""Query id → document id → score; the order of the documents, best first, is the ranking."""


def read_run(path: UserPath) -> Run:
    """Read a TREC run.

    Parameters
    ----------
    path : str or path-like
        Six columns: query, ``Q0``, document, rank, score, tag; between tabs, ids may hold spaces. Also five, where
        ``Q0`` is missing, and three, where the last is a rank (MS MARCO's) or, if it cannot be one, a
        score. A first line may name the columns, which then may be others in any order.

    Returns
    -------
    Run
        Documents by falling score; ties by rank, then by first appearance. A warning tells where scores rise with the
        ranks in every query.

    Raises
    ------
    DataError
        If a line is malformed, a score is not finite, a document appears twice for one query, the file may be read
        in two ways, or it is empty.
    """
    entries: dict[str, dict[str, tuple[float, int]]] = {}
    path = expanded(path, "path")
    lines = RunLines(path)
    for line, text in read_lines(path):
        entry = lines.read(text, line)
        if entry is None:
            continue
        query, document, rank, score = entry
        ranking = entries.setdefault(query, {})
        if document in ranking:
            message = f"expected every document once per query, got {document!r} again for query {query!r}"
            raise DataError(message, str(path), line)
        ranking[document] = (score, rank)
    if not entries:
        raise DataError("the run is empty: expected lines of query, Q0, document, rank, score, tag", str(path))
    _warn_of_distances(entries, path)
    best_first = 1 if lines.values_are_ranks() else -1
    return {query: _sorted(ranking, best_first) for query, ranking in entries.items()}


def write_run(path: UserPath, run: Run, tag: str = "blockrank") -> None:
    """Write a TREC run, whole or not at all.

    TREC tools order by single-precision score and break ties by document id. A score that ties with (or lies
    below) the next one in the ranking is therefore raised by the least step of single precision, so that they
    see the ranking given; all other scores are written unchanged, as single precision.

    Parameters
    ----------
    path : str or path-like
        Output file; replaced only when the run is complete.
    run : Run
        Documents best first.
    tag : str
        Sixth column.

    Raises
    ------
    DataError
        If an id cannot stand in a column, or a score is not finite.
    """
    with replacing(expanded(path, "path")) as stream:
        for query, ranking in run.items():
            stream.writelines(_lines(query, ranking, tag))


def check_ids(run: Run) -> None:
    """Refuse a run that :func:`write_run` could not write for its ids' sake, before it is made.

    Raises
    ------
    DataError
        Naming the id.
    """
    for query, ranking in run.items():
        for identifier in (query, *ranking):
            _column(identifier)


def _warn_of_distances(entries: dict[str, dict[str, tuple[float, int]]], path: Path) -> None:
    """Warn where the first rank of every query has a lower score than the last: who wrote it means distances."""
    ends = [(min(found, key=_rank), max(found, key=_rank)) for found in map(dict.values, entries.values())]
    told = [(first, last) for first, last in ends if _rank(first) < _rank(last) and first[0] != last[0]]
    if told and all(first[0] < last[0] for first, last in told):
        warnings.warn(
            f"{path}: scores rise with the ranks in all of {len(told):,} queries, as distances do, and the highest "
            "counts as the best, as for TREC's tools; turn their signs if the lowest is meant",
            stacklevel=3,
        )


def _rank(entry: tuple[float, int]) -> int:
    return entry[1]


def _sorted(ranking: dict[str, tuple[float, int]], sign: int) -> dict[str, float]:
    """Return scores that fall; `sign` is 1 where the values rise from the best on, as ranks do."""
    best_first = sorted(ranking, key=lambda document: (sign * ranking[document][0], ranking[document][1]))
    return {document: -sign * ranking[document][0] for document in best_first}


def _lines(query: str, ranking: dict[str, float], tag: str) -> Iterator[str]:
    scores = strictly_falling(list(ranking.values()))
    for rank, (document, score) in enumerate(zip(ranking, scores, strict=True), start=1):
        yield f"{_column(query)} Q0 {_column(document)} {rank} {score} {tag}\n"


def strictly_falling(scores: Sequence[float]) -> list[str]:
    """Write the scores of one ranking as single-precision text in which each is below the one before it.

    Raises
    ------
    DataError
        If a score is not finite.
    """
    import numpy as np  # here, so that `blockrank --help` does not pay for it

    with np.errstate(over="ignore"):
        values = np.asarray(scores, dtype=np.float32)
    if not np.isfinite(values).all():
        raise DataError("expected finite single-precision scores, got nan or an infinity")
    falling: list[str] = []
    lowest = np.float32(-np.inf)
    for score in values[::-1]:
        lowest = max(score, np.nextafter(lowest, np.float32(np.inf)))
        falling.append(str(lowest))
    return falling[::-1]


def _column(identifier: str) -> str:
    if identifier.split() != [identifier] or not _is_utf8(identifier):
        raise DataError(f"the id {identifier!r} cannot stand in a TREC run: expected UTF-8 without white space")
    return identifier


def _is_utf8(identifier: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in identifier)
