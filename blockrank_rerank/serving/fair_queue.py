"""Whose turn is next among requests of several clients."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Client(Generic[T]):
    """What waits for one client, cheapest first, and the cost of what was done for it."""

    served: float
    waiting: list[tuple[float, int, float, T]] = field(default_factory=list)


class FairQueue(Generic[T]):
    """Items of several clients, each with a cost: the client for whom least was done is next, with its cheapest item.

    An item is put off by its client's later and cheaper ones until as much was done for that client as the item itself
    costs, and no longer. Who comes with nothing waiting is served like the client that has had least, so that nobody
    saves up turns; and what was done for a client counts on while others wait, so that nobody sheds it by asking for
    one thing at a time. Not safe for threads.
    """

    def __init__(self) -> None:
        self._clients: dict[Hashable, _Client[T]] = {}
        self._served: dict[Hashable, float] = {}  # of clients with nothing waiting that have had more than others
        self._numbers = count()
        self._level = 0.0

    def __len__(self) -> int:
        return sum(len(client.waiting) for client in self._clients.values())

    @property
    def cost(self) -> float:
        """Of everything that waits."""
        return sum(entry[2] for client in self._clients.values() for entry in client.waiting)

    def push(self, name: Hashable, cost: float, item: T) -> None:
        """Let an item of a client wait."""
        client = self._clients.setdefault(name, _Client(max(self._level, self._served.pop(name, 0.0))))
        heappush(client.waiting, (client.served + cost, next(self._numbers), cost, item))

    def take(self, most: float) -> list[T]:
        """Take the next items whose cost together is at most this, but one at least of those that wait."""
        taken: list[T] = []
        while self._clients:
            name, client = min(self._clients.items(), key=lambda pair: (pair[1].served, pair[1].waiting[0][1]))
            cost = client.waiting[0][2]
            if taken and cost > most:
                break
            taken.append(heappop(client.waiting)[3])
            self._level = client.served
            client.served += cost
            most -= cost
            self._forget_if_idle(name)
        return taken

    def remove(self, item: T) -> bool:
        """Take an item out of its turn; whether it was waiting."""
        for name, client in self._clients.items():
            for entry in client.waiting:
                if entry[3] is item:
                    client.waiting.remove(entry)
                    heapify(client.waiting)
                    self._forget_if_idle(name)
                    return True
        return False

    def _forget_if_idle(self, name: Hashable) -> None:
        if self._clients[name].waiting:
            return
        self._served[name] = self._clients.pop(name).served
        # Once nobody waits, nobody is behind.
        more = {other: served for other, served in self._served.items() if served > self._level}
        self._served = more if self._clients else {}
