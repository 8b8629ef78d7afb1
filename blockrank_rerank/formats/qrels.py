"""Relevance judgements of BEIR and TREC."""

from __future__ import annotations

from pathlib import Path

from blockrank_rerank.errors import DataError
from blockrank_rerank.formats.columns import ColumnLines, named_columns, split_line, whole_number
from blockrank_rerank.formats.jsonl import identifier_field, json_type, parse_jsonl
from blockrank_rerank.formats.lines import read_lines
from blockrank_rerank.system.files import UserPath, expanded

Qrels = dict[str, dict[str, int]]
"""Query id → document id → judgement."""

JUDGEMENT = ("score", "relevance", "rel", "label", "grade", "qrel", "judgement", "judgment", "relevancescore", "rating")
"""Names of the column of judgements in circulation, without case and punctuation."""
NAMES = {"judgement": JUDGEMENT}
WIDTHS = (3, 4)
LARGEST_JUDGEMENT = 1_000_000
"""That is believed: trec_eval takes memory in proportion to it, and more is an id, a time or a score."""


def read_qrels(path: UserPath) -> Qrels:
    """Read relevance judgements.

    Parameters
    ----------
    path : str or path-like
        BEIR's three columns (query, document, judgement), or TREC's four (query, iteration, document, judgement),
        between tabs, spaces or commas. A first line may name them, in any order. Or a JSON object per line.

    Raises
    ------
    DataError
        If a line is malformed, two judgements contradict each other, or there is no judgement.
    """
    qrels: Qrels = {}
    path = expanded(path, "path")
    judgements = JudgementLines(path)
    for line, text in read_lines(path):
        judged = judgements.read(text, line)
        if judged:
            _add(qrels, *judged, path, line)
    if not qrels:
        raise DataError("no judgements: expected one per line", str(path))
    return qrels


class JudgementLines(ColumnLines):
    """Reads the lines of one file of judgements, the first of which may name the columns."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._first = True

    def read(self, text: str, line: int) -> tuple[str, str, int] | None:
        """Return query, document and judgement of a line, or None for one that names the columns.

        Raises
        ------
        DataError
            If the line is malformed.
        """
        first, self._first = self._first, False
        if text.lstrip().startswith("{"):
            return self._from_json(text, line)
        columns = split_line(text, WIDTHS)
        if first and self._is_header(columns):
            return None
        self._check_count(columns, line)
        if not self._count:  # without names, every line may have either form
            self._places = {"query": 0, "document": len(columns) - 2, "judgement": len(columns) - 1}
        query, document = self._subjects(columns, line)
        return query, document, self._grade(columns[self._places["judgement"]], line)

    def _is_header(self, columns: list[str]) -> bool:
        """Whether the line names the columns; from then on they stand where it says."""
        if len(columns) not in WIDTHS or any(whole_number(name) for name in columns):
            return False
        places = named_columns(columns, NAMES)
        judgement = places.get("judgement", places.get("unknown"))
        if judgement is None:
            # By the last name alone, as columns of queries and documents have many names.
            return columns[-1].lower() in JUDGEMENT
        self._settle(places | {"judgement": judgement}, len(columns))
        return True

    def _check_count(self, columns: list[str], line: int) -> None:
        if self._count and len(columns) != self._count:
            raise self._fault(f"expected {self._count} columns, as the first line names them, got {len(columns)}", line)
        if len(columns) not in WIDTHS:
            raise self._fault(
                "expected 3 columns (query, document, judgement) or 4 (query, iteration, document, judgement) "
                f"separated by tabs or spaces, got {len(columns)}",
                line,
            )

    def _grade(self, judgement: str, line: int) -> int:
        grade = whole_number(judgement)
        if grade is None:
            raise self._fault(f"expected an integer judgement, got {judgement!r}", line)
        if grade > LARGEST_JUDGEMENT:
            most = f"{LARGEST_JUDGEMENT:,}"
            raise self._fault(
                f"expected a judgement of at most {most}, got {judgement}: check the order of the columns", line
            )
        return grade

    def _from_json(self, text: str, line: int) -> tuple[str, str, int]:
        [(_, record)] = parse_jsonl([(line, text)], str(self._path))
        keys = list(record)
        places = named_columns(keys, NAMES)
        if "judgement" not in places:
            raise self._fault(
                f'expected a JSON object with "query-id", "corpus-id" and "score", got the keys {keys}', line
            )
        query, document = (identifier_field(record, keys[places[n]], str(self._path), line) for n in SUBJECTS)
        judgement = record[keys[places["judgement"]]]
        if isinstance(judgement, bool) or not isinstance(judgement, int | float | str):
            raise self._fault(f"expected an integer judgement, got {json_type(judgement)}", line)
        return query, document, self._grade(str(judgement), line)


SUBJECTS = ("query", "document")


def _add(qrels: Qrels, query: str, document: str, judgement: int, path: Path, line: int) -> None:
    known = qrels.setdefault(query, {}).setdefault(document, judgement)
    if known != judgement:
        raise DataError(
            f"query {query!r}, document {document!r}: judged {known} above and {judgement} here; keep one",
            str(path),
            line,
        )
