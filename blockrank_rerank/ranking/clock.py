"""The time that is left to a call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds to a deadline, which work that does not count puts off."""

    def __init__(self, seconds: float) -> None:
        self._end = time.perf_counter() + seconds

    @property
    def left(self) -> float:
        """Seconds; below 0 once it has passed."""
        return self._end - time.perf_counter()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Put the deadline off by what happens inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._end += time.perf_counter() - start
