"""`blockrank serve` with a queue that serves first who comes first, in one thread, one list at a time.

    python benchmarks/serving_first_come.py --port 8765

What the server's own queue is compared with.
"""

from __future__ import annotations

import sys

from blockrank_rerank.cli.app import main
from blockrank_rerank.serving import scheduler, service


class FirstComeFirstServed(scheduler.Scheduler):
    """One thread, and no order but that of arrival."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self._short._turn_cost = 0.0

    def submit(self, request: object, client: object = None) -> scheduler.Job:
        """Give every request the same cost, so that the queue keeps their order."""
        job = scheduler.Job(request, None, 1.0)
        self._short.push(job)
        return job


if __name__ == "__main__":
    service.Scheduler = FirstComeFirstServed
    sys.exit(main(["serve", *sys.argv[1:]]))
