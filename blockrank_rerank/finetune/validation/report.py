"""What a check of training data tells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from blockrank_rerank.finetune.validation.statistics import Spread, Statistics
from blockrank_rerank.formats import DataError

FEW_EQUAL = 3
"""Equal faults of one file that are shown one by one."""


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """The faults and statistics that `validate` found.

    Parameters
    ----------
    sources : tuple of str
        Files, folders, datasets.
    faults : tuple of DataError
        The first faults, in order; every one has a path and mostly a line.
    fault_count : int
        All faults.
    statistics : Statistics
        Of the examples without a fault.
    """

    sources: tuple[str, ...]
    faults: tuple[DataError, ...]
    fault_count: int
    statistics: Statistics

    @property
    def usable(self) -> bool:
        """Say whether `read_examples` will read this data."""
        return not self.fault_count

    def fault_lines(self) -> Iterator[tuple[str, int]]:
        """Say what is wrong where, with how many faults that is: what many lines of a file have is one sentence."""
        alike: dict[tuple[str | None, str], list[DataError]] = {}
        for fault in self.faults:
            alike.setdefault((fault.path, fault.reason), []).append(fault)
        for fault in self.faults:
            equal = alike[fault.path, fault.reason]
            if len(equal) <= FEW_EQUAL:
                yield str(fault), 1
            elif fault is equal[0]:
                yield f"{fault} ({len(equal):,} times, the last in line {equal[-1].line})", len(equal)

    def as_json(self) -> dict[str, Any]:
        """Return the whole report as JSON values."""
        return {
            "sources": list(self.sources),
            "usable": self.usable,
            "fault_count": self.fault_count,
            "faults": [{"path": fault.path, "line": fault.line, "message": str(fault)} for fault in self.faults],
            "statistics": asdict(self.statistics),
        }

    def warnings(self) -> list[str]:
        """Say in sentences what is no fault but seldom meant."""
        sentences = {
            "without_negatives": "examples have no negatives: reading takes those of BEIR folders from BM25, "
            "all others get random documents; 'blockrank-finetune mine-negatives' finds hard ones",
            "duplicated_documents": "documents stand in their own list already: they count once",
            "positives_also_negative": "documents are relevant and not relevant to one query: they count as relevant",
            "duplicate_queries": "queries occur more than once: training joins their rows, so that no row's answer "
            "becomes another one's negative",
            "empty_documents": "documents in lists are empty",
            "truncated_queries": "queries are longer than the model reads: training reads their beginnings",
            "copied_documents": "documents of the corpus are copies of others: they count as one",
        }
        counts = {name: getattr(self.statistics, name) for name in sentences}
        lines = [f"{count:,} {sentences[name]}" for name, count in counts.items() if count]
        share = self.statistics.truncated_share
        return [*lines, f"{share:.1%} of the documents are longer than the token cap and are cut"] if share else lines

    def __rich__(self) -> Table:
        """Show the statistics as a table."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("statistic")
        for heading in ("min", "median", "max", "mean"):
            table.add_column(heading, justify="right")
        for name, *numbers in self._rows():
            table.add_row(name, *numbers)
        return table

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for name, value in vars(self.statistics).items():
            if isinstance(value, Spread):
                shown = (f"{value.min:g}", f"{value.median:g}", f"{value.max:g}", f"{value.mean:.1f}")
                yield (name.replace("_", " "), *shown)

    def facts(self) -> list[str]:
        """Say in sentences how many examples there are, and of which kinds."""
        found = self.statistics
        return [
            f"{found.examples:,} examples, {found.unique_documents:,} different documents",
            f"{found.graded:,} examples have graded labels, {found.teacher_scored:,} have teacher scores",
        ]
