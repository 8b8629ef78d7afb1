"""Clients of a server, as users of locust: `python serving_clients.py PLAN.json ANSWERS.json`, run by `serving.py`.

In a process of its own, as locust replaces the sockets and threads of whoever imports it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import gevent
from locust import FastHttpUser, constant, task
from locust.env import Environment
from locust.exception import StopUser

PAUSE_S = 0.1
"""That a client waits after it was refused."""

PLAN = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
WAITING = list(PLAN["clients"])
ROWS: list[dict[str, object]] = []
SENDING: list[Client] = []


class Client(FastHttpUser):
    """Sends its lists one after the other; where it repeats, again until the time is over or the others are done."""

    host = PLAN["url"]
    wait_time = constant(0)
    network_timeout = connection_timeout = 3600.0

    def on_start(self) -> None:
        """Take over one client of the plan."""
        self.number = len(PLAN["clients"]) - len(WAITING)
        self.name, self.repeats, lists = WAITING.pop(0)
        self.lists: Iterator[list[str]] = cycle(lists) if self.repeats else iter(lists)
        if not self.repeats:
            SENDING.append(self)

    def is_over(self) -> bool:
        """Whether a client that repeats is to stop."""
        if PLAN["seconds"]:
            return time.perf_counter() - START > PLAN["seconds"]
        return not WAITING and not SENDING

    @task
    def rank(self) -> None:
        """Send one list, and note status, milliseconds and scores."""
        documents = None if self.repeats and self.is_over() else next(self.lists, None)
        if documents is None:
            if self in SENDING:
                SENDING.remove(self)
            raise StopUser
        start = time.perf_counter()
        answer = self.client.post("/v2/rerank", json={"query": PLAN["query"], "documents": documents}, name=self.name)
        ms = 1000 * (time.perf_counter() - start)
        rows = answer.json()["results"] if answer.status_code == 200 else []
        scores = {row["index"]: row["relevance_score"] for row in rows}
        row = {"name": self.name, "client": self.number, "status": answer.status_code, "ms": ms}
        ROWS.append(row | {"documents": len(documents), "scores": [scores[index] for index in sorted(scores)]})
        if answer.status_code == 429:
            gevent.sleep(PAUSE_S)


START = time.perf_counter()
runner = Environment(user_classes=[Client]).create_local_runner()
runner.start(len(PLAN["clients"]), spawn_rate=100)
while WAITING or runner.user_count:
    gevent.sleep(0.05)
seconds = time.perf_counter() - START
runner.quit()
Path(sys.argv[2]).write_text(json.dumps({"seconds": seconds, "rows": ROWS}), encoding="utf-8")
