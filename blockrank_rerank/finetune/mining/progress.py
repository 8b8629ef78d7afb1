"""The stages of mining, shown one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from blockrank_rerank.ranking.progress import progress_bar

OnProgress = Callable[[str, int, int], None]
"""Called with the stage, the items of it that are done, and their number."""


@contextmanager
def stage_progress() -> Iterator[OnProgress]:
    """Draw a bar on stderr for every stage as it comes."""
    with ExitStack() as bar:
        stages = _Stages(bar)
        yield stages.show


class _Stages:
    """The stage that has a bar at the moment; the bar ends with the stage, and lives in an exit stack."""

    def __init__(self, bar: ExitStack) -> None:
        self._bar = bar
        self._stage: tuple[str, int] | None = None
        self._done = 0

    def show(self, stage: str, done: int, total: int) -> None:
        # A stage can come again, with other items.
        if (stage, total) != self._stage or done < self._done:
            self._bar.close()
            self._stage, self._done = (stage, total), 0
            self._advance = self._bar.enter_context(progress_bar(stage, "", total))
        self._advance(done - self._done, 0)
        self._done = done
