"""Lines of runs: TREC's six columns, and the other forms in circulation."""

from __future__ import annotations

from pathlib import Path

from blockrank_rerank.formats.columns import (
    ITERATIONS,
    ColumnLines,
    finite_number,
    named_columns,
    split_line,
    whole_number,
)

NAMES = {
    "rank": ("rank", "ranking", "position", "pos"),
    "score": ("score", "sim", "similarity", "relevancescore"),
    "tag": ("tag", "run", "runid", "runname", "runtag", "system"),
}
"""Names of columns in circulation, without case and punctuation."""

TREC = ("query", "iteration", "document", "rank", "score", "tag")
WITHOUT_ITERATION = ("query", "document", "rank", "score", "tag")
SHORT = ("query", "document", "value")
WIDTHS = (3, 5, 6)
SIX = "expected 6 columns (query, Q0, document, rank, score, tag), got "


class RunLines(ColumnLines):
    """Reads the lines of one run; the first line shows its form, and may name the columns."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._ranks: dict[str, int] = {}
        self._no_rank: tuple[int, str] | None = None
        self._fractions = False

    def read(self, text: str, line: int) -> tuple[str, str, int, float] | None:
        """Return query, document, rank and score of a line, or None for one that names the columns.

        A run with ranks alone has falling scores.

        Raises
        ------
        DataError
            If the line is malformed.
        """
        columns = split_line(text, WIDTHS)
        if not self._places and self._is_header(columns):
            return None
        if not self._places:
            form = self._form(columns, line)
            self._settle({role: place for place, role in enumerate(form)}, len(columns))
        if len(columns) != self._count:
            expected = f"expected {self._count} columns, as in the first line, got "
            raise self._fault(f"{SIX if self._count == len(TREC) else expected}{len(columns)}", line)
        query, document = self._subjects(columns, line)
        return query, document, *self._rank_and_score(query, columns, line)

    def values_are_ranks(self) -> bool:
        """Whether the third of three columns without names holds ranks, after the last line.

        Raises
        ------
        DataError
            If it may be either.
        """
        if "value" not in self._places or (self._no_rank and self._fractions):
            return False
        if self._no_rank is None:
            return True
        line, value = self._no_rank
        raise self._fault(
            f"the third column may be a rank or a score, got {value}: ranks would be 1, 2, 3 and so on for every "
            "query. Name the columns in a first line: query-id document-id score, or query-id document-id rank",
            line,
        )

    def _is_header(self, columns: list[str]) -> bool:
        if any(finite_number(column) for column in columns):
            return False
        places = named_columns(columns, NAMES)
        if "rank" in places or "score" in places:
            self._settle(places, len(columns))
            return True
        return False

    def _form(self, columns: list[str], line: int) -> tuple[str, ...]:
        if len(columns) == len(TREC):
            return TREC
        if len(columns) == len(SHORT):
            return SHORT
        if len(columns) == len(WITHOUT_ITERATION) and columns[1].lower() not in ITERATIONS:
            rank, score = columns[2:4]
            if whole_number(rank) is not None and finite_number(score) is not None:
                return WITHOUT_ITERATION
        raise self._fault(
            f"{SIX}{len(columns)}; or 3 (query, document, rank), 5 (query, document, rank, score, tag), "
            "or a first line that names the columns, such as: qid docno rank score",
            line,
        )

    def _rank_and_score(self, query: str, columns: list[str], line: int) -> tuple[int, float]:
        places = self._places
        if "value" in places:
            return 0, self._value(query, columns[places["value"]], line)
        rank = self._rank(columns[places["rank"]], line) if "rank" in places else 0
        return rank, self._score(columns[places["score"]], line) if "score" in places else float(-rank)

    def _value(self, query: str, text: str, line: int) -> float:
        value = self._score(text, line)
        expected = self._ranks.get(query, 0) + 1
        self._ranks[query] = expected
        if self._no_rank is None and value != expected:
            self._no_rank = line, text
        self._fractions = self._fractions or value < 0 or not value.is_integer()
        return value

    def _rank(self, text: str, line: int) -> int:
        rank = whole_number(text)
        if rank is None:
            raise self._fault(f"expected an integer rank, got {text!r}", line)
        return rank

    def _score(self, text: str, line: int) -> float:
        score = finite_number(text)
        if score is None:
            raise self._fault(f"expected a finite score, got {text!r}", line)
        return score
