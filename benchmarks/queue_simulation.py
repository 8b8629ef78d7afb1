"""The server's queue without its threads: what `queueing.py` compares with a measured run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blockrank_rerank.serving.fair_queue import FairQueue


@dataclass(eq=False)
class Request:
    """One that waits or runs, of a client that sends its next one after the answer."""

    client: int
    cost: float
    sent: float


@dataclass(eq=False)
class Turn:
    """Requests that are ranked together, and the seconds that they take yet with the machine for themselves."""

    requests: Sequence[Request]
    left: float


class Lane:
    """A queue and what is ranked of it: the server's, without a thread."""

    def __init__(self, turn_cost: float) -> None:
        self.turn_cost, self.queue, self.turn = turn_cost, FairQueue[Request](), None

    def begin(self, seconds: Callable[[float], float]) -> None:
        """Take the next turn, where none runs and something waits."""
        if self.turn is None and len(self.queue):
            requests = self.queue.take(self.turn_cost)
            self.turn = Turn(requests, seconds(sum(request.cost for request in requests)))


def simulated(
    clients: Sequence[Sequence[float]], turn_cost: float, seconds: Callable[[float], float], both: float
) -> list[float]:
    """Seconds from each request to its answer, client by client.

    Parameters
    ----------
    clients : sequence of sequence of float
        Costs of each client's requests in their order, in characters.
    turn_cost : float
        Most that requests of one turn cost together; one that costs more goes through the other lane, alone.
    seconds : callable
        How long a turn of so many characters takes with the machine for itself.
    both : float
        How many times as long it takes while the other lane has a turn.
    """
    short, long = Lane(turn_cost), Lane(0.0)
    waiting = [list(costs) for costs in clients]
    answered: list[list[float]] = [[] for _ in clients]
    now = 0.0

    def send(client: int) -> None:
        if waiting[client]:
            cost = waiting[client].pop(0)
            # The load comes from one address, so that it is one client to the queue.
            (long if cost > turn_cost else short).queue.push("127.0.0.1", cost, Request(client, cost, now))

    for client in range(len(clients)):
        send(client)
    while True:
        for lane in (short, long):
            lane.begin(seconds)
        running = [lane for lane in (short, long) if lane.turn is not None]
        if not running:
            return [latency for latencies in answered for latency in latencies]
        first = min(running, key=lambda lane: lane.turn.left)
        step, turn = first.turn.left, first.turn
        now += step * (both if len(running) > 1 else 1.0)
        for lane in running:
            lane.turn.left -= step
        first.turn = None
        for request in turn.requests:
            answered[request.client].append(now - request.sent)
            send(request.client)
