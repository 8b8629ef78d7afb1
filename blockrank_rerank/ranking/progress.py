"""Telling how far long work is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONG_WORK_TOKENS = 65536
"""Work from which a progress bar appears by itself: more than about a second with the default model."""


def no_progress(items: int, tokens: int) -> None:
    """Report to nobody."""


@contextmanager
def work_progress(
    what: str,
    total: int,
    characters: int,
    show: bool | None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[Callable[[int, int], None]]:
    """A function to report (items, tokens) to, with a bar behind it where one is wanted.

    Parameters
    ----------
    what : str
        Shown before the bar.
    total : int
        Items.
    characters : int
        Length of all texts; without ``show`` it decides whether a bar is worth drawing on a terminal.
    show : bool, optional
        Whether there is a bar.
    on_progress : callable, optional
        Told instead of a bar that nobody asked for, or beside it.
    """
    report = on_progress or no_progress
    if show is None:
        # Four characters a token is close enough.
        show = characters > 4 * LONG_WORK_TOKENS and sys.stderr.isatty() and not on_progress
    if not show:
        yield report
        return
    from rich.progress import Progress

    from blockrank_rerank.engine.workers import PART_DONE
    from blockrank_rerank.ranking.terminal import GuardedConsole

    done = 0
    with Progress(console=GuardedConsole(stderr=True)) as bar:
        task = bar.add_task(what, total=total)

        def advance(items: int, tokens: int) -> None:
            nonlocal done
            done += items
            bar.update(task, completed=done)  # its parts are in it already
            report(items, tokens)

        token = PART_DONE.set(lambda share: bar.advance(task, share))
        try:
            yield advance
        finally:
            PART_DONE.reset(token)


@contextmanager
def progress_bar(what: str, unit: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Draw a progress bar on stderr, with token throughput where tokens are reported.

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
    # Here, so that whoever draws nothing does not wait for it.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from blockrank_rerank.ranking.terminal import GuardedConsole

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}{{task.fields[throughput]}}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=GuardedConsole(stderr=True, highlight=False)) as progress:
        task = progress.add_task("", total=total, throughput="")
        tokens = 0

        def advance(items: int, more_tokens: int) -> None:
            nonlocal tokens
            tokens += more_tokens
            elapsed = progress.tasks[0].elapsed
            throughput = f", {tokens / elapsed:,.0f} tokens/s" if tokens and elapsed else ""
            progress.update(task, advance=items, throughput=throughput)

        yield advance
