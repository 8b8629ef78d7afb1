"""Requests wait for the model, share its passes, and leave when nobody waits for them any more."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Event, Thread
from time import monotonic

from blockrank_rerank.engine.workers import STOP
from blockrank_rerank.errors import Transferable
from blockrank_rerank.reranker import BlockRankReranker
from blockrank_rerank.serving.fair_queue import FairQueue
from blockrank_rerank.serving.turn import RankRequest, Served, pass_cost, rank_together

LONGEST_RETRY_S = 60
CLOSING = "the server is shutting down"


class Overloaded(Transferable, Exception):
    """As many requests wait as may, of all clients or of this one.

    Attributes
    ----------
    retry_after_s : int
        When about half of all that wait will be done, at the speed of late.
    """

    def __init__(self, waiting: str, retry_after_s: int) -> None:
        super().__init__(f"{waiting} are waiting, as many as may; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Closed(Exception):
    """The server is shutting down."""


@dataclass(eq=False)
class Job:
    """A request on its way.

    Attributes
    ----------
    future : Future
        Of what its caller gets.
    waited_s : float
        Seconds in the queue, once it has left it.
    """

    request: RankRequest
    client: Hashable
    cost: float
    future: Future[Served] = field(default_factory=Future)
    stop: Event = field(default_factory=Event)
    arrived: float = field(default_factory=monotonic)
    waited_s: float = 0.0


class Lane:
    """One thread that ranks what waits in a queue, as much at a time as costs no more than ``turn_cost``."""

    def __init__(self, name: str, turn_cost: float, rank: Callable[[Sequence[Job]], None]) -> None:
        self._turn_cost, self._rank = turn_cost, rank
        self._queue: FairQueue[Job] = FairQueue()
        self._clients = Counter[Hashable]()
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._run, name=f"blockrank-{name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        with self._changed:
            return len(self._queue)

    def waiting_of(self, client: Hashable) -> int:
        """Requests of one client that wait."""
        with self._changed:
            return self._clients[client]

    @property
    def cost(self) -> float:
        """Of those that wait."""
        with self._changed:
            return self._queue.cost

    def push(self, job: Job) -> None:
        """Let a job wait for its turn; raises Closed after :meth:`close`, when nobody would take it."""
        with self._changed:
            if self._closed:
                raise Closed(CLOSING)
            self._queue.push(job.client, job.cost, job)
            self._clients[job.client] += 1
            self._changed.notify()

    def remove(self, job: Job) -> None:
        """Let a job wait no longer."""
        with self._changed:
            if self._queue.remove(job):
                self._left([job])

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
                self._left(jobs)
            if not jobs:
                return
            # A future that was cancelled in this moment is not to be set.
            self._rank([job for job in jobs if job.future.set_running_or_notify_cancel()])

    def _left(self, jobs: Sequence[Job]) -> None:
        """Note that jobs are in the queue no longer."""
        now = monotonic()
        for job in jobs:
            job.waited_s = now - job.arrived
        self._clients -= Counter(job.client for job in jobs)  # those with none are forgotten


class Scheduler:
    """Ranks requests of many callers with one model: a list that fills passes alone beside all shorter ones.

    Requests that fit into one forward pass share passes, in one thread. Longer lists go one after the other through a
    second thread, so that no short one waits for a long one: both compute at the same time then. Loads the model.

    Parameters
    ----------
    ranker : BlockRankReranker
        Ranks.
    max_waiting : int
        Requests that may wait, at least 1; those of one client take half of the places at most.
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
            Where too many wait, of all clients or of this one.
        Closed
            After :meth:`close`.
        """
        if self._closed:
            raise Closed(CLOSING)
        self._check_room(client)
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

    def _check_room(self, client: Hashable) -> None:
        waiting, own = self.waiting, self._short.waiting_of(client) + self._long.waiting_of(client)
        # One client alone leaves places for others.
        if waiting < self.max_waiting and own < math.ceil(self.max_waiting / 2):
            return
        seconds = (self._short.cost + self._long.cost) / self._speed / 2
        who = f"{waiting} requests" if waiting >= self.max_waiting else f"{own} requests of this client"
        raise Overloaded(who, min(max(math.ceil(seconds), 1), LONGEST_RETRY_S))

    def _lane(self, job: Job) -> Lane:
        return self._long if job.cost > self._turn_cost else self._short

    def _rank(self, jobs: Sequence[Job]) -> None:
        started = monotonic()
        stop = STOP.set(jobs[0].stop) if len(jobs) == 1 else None
        try:
            for number, served in rank_together(self.ranker, [job.request for job in jobs]):
                jobs[number].future.set_result(served)
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
