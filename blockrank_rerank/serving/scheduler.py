"""Requests wait for the model, share its passes, and leave when nobody waits for them any more."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Event, Thread
from time import monotonic

from blockrank_rerank.engine.workers import STOP
from blockrank_rerank.reranker import BlockRankReranker
from blockrank_rerank.serving.fair_queue import FairQueue
from blockrank_rerank.serving.turn import Ranking, RankRequest, pass_cost, rank_together

LONGEST_RETRY_S = 60


class Overloaded(Exception):
    """As many requests wait as may.

    Attributes
    ----------
    retry_after_s : int
        When about half of them will be done, at the speed of late.
    """

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__(f"{waiting} requests are waiting, as many as may; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Closed(Exception):
    """The server is shutting down."""


@dataclass(eq=False)
class Job:
    """A request on its way.

    Attributes
    ----------
    future : Future
        Of its `Ranking`.
    waited_s : float
        Seconds in the queue, once it has left it.
    """

    request: RankRequest
    client: Hashable
    cost: float
    future: Future[Ranking] = field(default_factory=Future)
    stop: Event = field(default_factory=Event)
    arrived: float = field(default_factory=monotonic)
    waited_s: float = 0.0


class Lane:
    """One thread that ranks what waits in a queue, as much at a time as costs no more than ``turn_cost``."""

    def __init__(self, name: str, turn_cost: float, rank: Callable[[Sequence[Job]], None]) -> None:
        self._turn_cost, self._rank = turn_cost, rank
        self._queue: FairQueue[Job] = FairQueue()
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._run, name=f"blockrank-{name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        with self._changed:
            return len(self._queue)

    @property
    def cost(self) -> float:
        """Of those that wait."""
        with self._changed:
            return self._queue.cost

    def push(self, job: Job) -> None:
        """Let a job wait for its turn."""
        with self._changed:
            self._queue.push(job.client, job.cost, job)
            self._changed.notify()

    def remove(self, job: Job) -> None:
        """Let a job wait no longer."""
        with self._changed:
            self._queue.remove(job)

    def close(self) -> None:
        """Rank what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._queue) or self._closed)
                jobs = self._queue.take(self._turn_cost)
            if not jobs:
                return
            started = monotonic()
            for job in jobs:
                job.waited_s = started - job.arrived
            # A future that was cancelled in this moment is not to be set.
            self._rank([job for job in jobs if job.future.set_running_or_notify_cancel()])


class Scheduler:
    """Ranks requests of many callers with one model: a list that fills passes alone beside all shorter ones.

    Requests that fit into one forward pass share passes, in one thread. Longer lists go one after the other through a
    second thread, so that no short one waits for a long one: both compute at the same time then. Loads the model.

    Parameters
    ----------
    ranker : BlockRankReranker
        Ranks.
    max_waiting : int
        Requests that may wait, at least 1.
    """

    def __init__(self, ranker: BlockRankReranker, max_waiting: int) -> None:
        self.ranker, self.max_waiting = ranker, max_waiting
        self._turn_cost = pass_cost(ranker)
        self._short = Lane("short", self._turn_cost, self._rank)
        self._long = Lane("long", 0, self._rank)
        self._speed = self._turn_cost  # per second: of a slow machine, until something was measured
        self._closed = False

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._short.waiting + self._long.waiting

    @property
    def is_open(self) -> bool:
        """Whether requests are taken."""
        return not self._closed

    def submit(self, request: RankRequest, client: Hashable = None) -> Job:
        """Let a request wait for its turn.

        Parameters
        ----------
        request : RankRequest
            What to rank.
        client : hashable
            Whose it is: clients have turns of the same size.

        Raises
        ------
        Overloaded
            Where too many wait.
        Closed
            After :meth:`close`.
        """
        if self._closed:
            raise Closed("the server is shutting down")
        waiting = self.waiting
        if waiting >= self.max_waiting:
            seconds = (self._short.cost + self._long.cost) / self._speed / 2
            raise Overloaded(waiting, min(max(math.ceil(seconds), 1), LONGEST_RETRY_S))
        job = Job(request, client, request.cost(self.ranker))
        self._lane(job).push(job)
        return job

    def cancel(self, job: Job) -> None:
        """Leave a job alone that nobody waits for: it loses its place, or stops after its group of documents."""
        self._lane(job).remove(job)
        job.future.cancel()
        job.stop.set()

    def close(self) -> None:
        """Take nothing more, and return once everything that was taken is ranked."""
        self._closed = True
        self._short.close()
        self._long.close()

    def _lane(self, job: Job) -> Lane:
        return self._long if job.cost > self._turn_cost else self._short

    def _rank(self, jobs: Sequence[Job]) -> None:
        started = monotonic()
        stop = STOP.set(jobs[0].stop) if len(jobs) == 1 else None
        try:
            for number, ranking in rank_together(self.ranker, [job.request for job in jobs]):
                jobs[number].future.set_result(ranking)
        except BaseException as error:  # whatever it is, somebody waits for an answer
            rest = [job for job in jobs if not job.future.done()]
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            else:  # one of them is at fault
                for job in rest:
                    self._rank([job])
        else:
            self._measure(sum(job.cost for job in jobs), monotonic() - started)
        finally:
            if stop is not None:
                STOP.reset(stop)

    def _measure(self, cost: float, seconds: float) -> None:
        if cost and seconds:
            self._speed += 0.2 * (cost / seconds - self._speed)
