"""The order in which several collections are walked through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Items planned at once; a block holds every collection in its exact share, so that none is starved for long.
BLOCK = 1024


class Draw(NamedTuple):
    """The numbers of a collection and of an example in it."""

    collection: int
    row: int


class MixtureSampler:
    """An endless order over the examples of several collections, in which any item can be looked up.

    Item ``i`` depends on the arguments and ``i`` alone, so that training resumes at any step by going on with
    the next number, and several processes share one order. Every collection is walked through in a new random
    permutation each time, and takes its share of every 1024 items to within one.

    Parameters
    ----------
    sizes : sequence of int
        Examples per collection.
    weights : sequence of float, optional
        Shares, to any scale.
    alpha : float
        Without weights a collection's share is proportional to ``size ** alpha``: 1 treats all examples alike,
        0 all collections; in between, small ones are favoured without being repeated too often (the
        exponentiated sampling of multilingual models; Conneau et al. 2020, arXiv 1911.02116).
    seed : int
        Seed of the order.

    Raises
    ------
    ValueError
        For an empty collection, or weights that are no shares.
    """

    def __init__(
        self, sizes: Sequence[int], *, weights: Sequence[float] | None = None, alpha: float = 0.5, seed: int = 0
    ) -> None:
        if not sizes or min(sizes) < 1:
            raise ValueError(f"sizes must name collections of at least 1 example, got {list(sizes)}")
        shares = np.asarray(sizes, float) ** alpha if weights is None else _weights(weights, len(sizes))
        self.sizes, self.seed = tuple(sizes), seed
        self.shares: NDArray[np.float64] = shares / shares.sum()
        self._before = [np.zeros(len(sizes), np.int64)]
        self._last_plan: tuple[int, NDArray[np.int64]] | None = None
        self._last_permutations: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def __getitem__(self, index: int) -> Draw:
        """Return the collection, and the example in it, of item ``index``, counted from 0."""
        if index < 0:
            raise IndexError(f"index must not be negative: the order has no end, got {index}")
        block, offset = divmod(index, BLOCK)
        plan = self._cached_plan(block)
        collection = int(plan[offset])
        seen = int(self._seen(block)[collection] + np.count_nonzero(plan[:offset] == collection))
        epoch, position = divmod(seen, self.sizes[collection])
        return Draw(collection, int(self._cached_permutation(collection, epoch)[position]))

    def __iter__(self) -> Iterator[Draw]:
        """Give all items from the first, without end."""
        return (self[index] for index in count())

    def _seen(self, block: int) -> NDArray[np.int64]:
        """Count the items of every collection in all blocks before this one."""
        while len(self._before) <= block:
            plan = self._plan(len(self._before) - 1)
            self._before.append(self._before[-1] + np.bincount(plan, minlength=len(self.sizes)))
        return self._before[block]

    def _cached_plan(self, block: int) -> NDArray[np.int64]:
        if self._last_plan is None or self._last_plan[0] != block:
            self._last_plan = block, self._plan(block)
        return self._last_plan[1]

    def _cached_permutation(self, collection: int, epoch: int) -> NDArray[np.int64]:
        last = self._last_permutations.get(collection)
        if last is None or last[0] != epoch:
            last = self._last_permutations[collection] = epoch, self._permute(collection, epoch)
        return last[1]

    def _plan(self, block: int) -> NDArray[np.int64]:
        generator = np.random.default_rng([self.seed, 0, block])
        # Systematic sampling: equidistant points behind a random start, each falling into one share.
        points = (np.arange(BLOCK) + generator.random()) / BLOCK
        plan = np.searchsorted(np.cumsum(self.shares)[:-1], points, side="right")
        return generator.permutation(plan)

    def _permute(self, collection: int, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, 1, collection, epoch]).permutation(self.sizes[collection])


def _weights(weights: Sequence[float], count: int) -> NDArray[np.float64]:
    shares = np.asarray(weights, float)
    if shares.shape != (count,):
        raise ValueError(f"weights must be one for each of the {count} collections, got {len(weights)}")
    if not np.isfinite(shares).all() or shares.min() < 0 or shares.sum() <= 0:
        raise ValueError(f"weights must be finite, not negative, and not all 0, got {list(weights)}")
    return shares
