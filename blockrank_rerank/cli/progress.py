from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def work_bar(what: str, unit: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Progress bar on stderr, with token throughput.

    Parameters
    ----------
    what : str
        The work, such as ``reranking``.
    unit : str
        What is counted, such as ``queries``.
    total : int
        Number of them.

    Yields
    ------
    callable
        Takes the items and tokens finished since the last call.
    """
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}, {{task.fields[tokens_per_second]:,.0f}} tokens/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True, highlight=False)) as progress:
        task = progress.add_task("", total=total, tokens_per_second=0.0)
        tokens = 0

        def advance(items: int, more_tokens: int) -> None:
            nonlocal tokens
            tokens += more_tokens
            elapsed = progress.tasks[0].elapsed or 0.0
            progress.update(task, advance=items, tokens_per_second=tokens / elapsed if elapsed else 0.0)

        yield advance
