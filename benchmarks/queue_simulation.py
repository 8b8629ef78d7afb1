"""The server's queue without its threads: what `queueing.py` compares with a measured run."""

from __future__ import annotations

from collections import deque
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
    """Requests that are ranked together: how many rounds of the machine they take yet, and the seconds of each."""

    requests: Sequence[Request]
    rounds: int
    seconds: float


class Lane:
    """A queue and what is ranked of it: the server's, without a thread."""

    def __init__(self, turn_cost: float) -> None:
        self.turn_cost, self.queue, self.turn = turn_cost, FairQueue[Request](), None

    def begins(self, seconds: Callable[[float], float], rounds: Callable[[float], int]) -> bool:
        """Take the next turn, where none runs and something waits."""
        if self.turn is not None or not len(self.queue):
            return False
        requests = self.queue.take(self.turn_cost)
        cost = sum(request.cost for request in requests)
        self.turn = Turn(requests, rounds(cost), seconds(cost) / rounds(cost))
        return True


def simulated(
    clients: Sequence[Sequence[float]],
    turn_cost: float,
    seconds: Callable[[float], float],
    rounds: Callable[[float], int],
) -> list[float]:
    """Seconds from each request to its answer, client by client.

    The machine has one round at a time, of whichever lane asked first: what a list needs beyond a round, it asks for
    when that is done.

    Parameters
    ----------
    clients : sequence of sequence of float
        Costs of each client's requests in their order, in characters.
    turn_cost : float
        Most that requests of one turn cost together; one that costs more goes through the other lane, alone.
    seconds : callable
        How long a turn of so many characters takes with the machine for itself.
    rounds : callable
        Into how many equal parts a turn of so many characters is cut, one after the other.
    """
    short, long = Lane(turn_cost), Lane(0.0)
    waiting = [list(costs) for costs in clients]
    answered: list[list[float]] = [[] for _ in clients]
    asked: deque[Lane] = deque()
    now = 0.0

    def send(client: int) -> None:
        if waiting[client]:
            cost = waiting[client].pop(0)
            # The load comes from one address, so that it is one client to the queue.
            (long if cost > turn_cost else short).queue.push("127.0.0.1", cost, Request(client, cost, now))

    for client in range(len(clients)):
        send(client)
    while True:
        asked += [lane for lane in (short, long) if lane.begins(seconds, rounds)]
        if not asked:
            return [latency for latencies in answered for latency in latencies]
        lane = asked.popleft()
        now += lane.turn.seconds
        lane.turn.rounds -= 1
        if lane.turn.rounds:
            asked.append(lane)
            continue
        done, lane.turn = lane.turn, None
        for request in done.requests:
            answered[request.client].append(now - request.sent)
            send(request.client)
