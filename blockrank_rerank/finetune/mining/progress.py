from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from blockrank_rerank.finetune.mining.embeddings import OnProgress


@contextmanager
def stage_progress() -> Iterator[OnProgress]:
    """Progress bars on stderr, one for every stage as it comes."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, highlight=False)) as progress:
        bars: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            bar = bars.setdefault(stage, TaskID(-1))
            if bar == -1:
                bar = bars[stage] = progress.add_task(stage)
            progress.update(bar, completed=done, total=total)

        yield show
