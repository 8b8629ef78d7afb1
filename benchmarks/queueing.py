"""Simulate the server's queue by its own rules, and compare with a measured run.

    python benchmarks/queueing.py [--clients 8] [--requests 30] [--long-lists 2] [--dtype float32]

Every client sends lists of 1, 5 and 20 passages, one after the other; others send lists of more than one pass beside
them. How long turns take is measured first on a few lists that are ranked alone. What is simulated and what is measured
are the same requests in the same order.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
from common import median_ms, require_green
from cross_encoder import QUERY
from loopback import load, served
from queue_simulation import simulated
from scaling import passages

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine
from blockrank_rerank.serving.turn import RankRequest, pass_cost, rank_together

SIZES = (1, 5, 20)
SHARES = (0.5, 0.95, 0.99)
REQUESTS_OF_LONG_LISTS = 3
LONG = 1.5
"""Passes that a long list takes."""


def turn_seconds(ranker: BlockRankReranker, turn_cost: float) -> Callable[[float], float]:
    """How long turns take, between those of lists of several lengths that are ranked alone."""
    sizes = sorted({1, 5, 20, passages_for(turn_cost), passages_for(LONG * turn_cost)})
    requests = {size: RankRequest(QUERY, passages(size)) for size in sizes}
    times = median_ms({size: lambda r=r: [*rank_together(ranker, [r])] for size, r in requests.items()}, repeats=3)
    print("ms alone: " + ", ".join(f"{times[size]:,.0f} for {size} passages" for size in sizes))
    costs = [requests[size].cost(ranker) for size in sizes]
    return lambda cost: float(np.interp(cost, costs, [times[size] / 1000 for size in sizes]))


def turn_rounds(ranker: BlockRankReranker, turn_cost: float) -> Callable[[float], int]:
    """Into how many parts turns are cut, which the machine's workers compute one after the other."""
    request = RankRequest(QUERY, passages(passages_for(turn_cost)))
    tokens = ranker.engine.prompt.encode(QUERY, request.documents).num_tokens / request.cost(ranker)
    budget = ranker.engine.budget

    def rounds(cost: float) -> int:
        workers = budget.workers(round(cost * tokens))
        return budget.passes(round(cost * tokens), workers) // workers

    return rounds


def passages_for(cost: float) -> int:
    """Passages that have about so many characters."""
    texts = passages(1000)
    return math.ceil(cost * len(texts) / sum(map(len, texts)))


def workload(clients: int, requests: int, long_lists: int, turn_cost: float) -> list[list[list[str]]]:
    """Lists of each client: short ones of several lengths, and those of more than one pass, all of new texts."""
    rng, texts = random.Random(0), passages(1000)
    numbers = iter(range(10**9))
    long = passages_for(LONG * turn_cost)

    def list_of(size: int) -> list[str]:
        return [f"{number} {texts[number % len(texts)]}" for number in (next(numbers) for _ in range(size))]

    lists = [[list_of(rng.choice(SIZES)) for _ in range(requests)] for _ in range(clients)]
    return lists + [[list_of(long) for _ in range(REQUESTS_OF_LONG_LISTS)] for _ in range(long_lists)]


def measured(ranker: BlockRankReranker, lists: Sequence[Sequence[Sequence[str]]]) -> list[float]:
    """Seconds of each request to a server, client by client."""

    async def all_clients(url: str) -> list[float]:
        # One load for each client, so that latencies keep their order.
        found = await asyncio.gather(*(load(url, [of_one]) for of_one in lists))
        return [latency for _, latencies in found for latency in latencies]

    with served(ranker) as url:
        asyncio.run(load(url, [[["warm up"]]]))
        return asyncio.run(all_clients(url))


def table(found: Sequence[float], expected: Sequence[float], is_long: Sequence[bool]) -> None:
    """Print quantiles of both, and by how much the simulated ones differ."""
    print("| | | p50 ms | p95 ms | p99 ms |\n|---|---|---|---|---|")
    for name, kind in (("short lists", False), ("long lists", True)):
        rows = [
            np.quantile([latency for latency, long in zip(of, is_long, strict=True) if long is kind], SHARES)
            for of in (found, expected)
        ]
        for what, row in zip(("measured", "simulated"), rows, strict=True):
            print(f"| {name} | {what} | " + " | ".join(f"{1000 * value:,.0f}" for value in row) + " |")
        print(f"| {name} | deviation | " + " | ".join(f"{value:+.0%}" for value in rows[1] / rows[0] - 1) + " |")


def main(clients: int, requests: int, long_lists: int, dtype: str) -> None:
    """Print a table."""
    require_green("tests/serving/test_fair_queue.py", "tests/benchmarks/test_queue_simulation.py")
    print(machine())
    ranker = BlockRankReranker.from_pretrained(dtype=dtype)
    turn_cost = pass_cost(ranker)
    lists = workload(clients, requests, long_lists, turn_cost)
    costs = [[RankRequest(QUERY, documents).cost(ranker) for documents in of_one] for of_one in lists]
    expected = simulated(costs, turn_cost, turn_seconds(ranker, turn_cost), turn_rounds(ranker, turn_cost))
    found = measured(ranker, lists)
    table(found, expected, [cost > turn_cost for of_one in costs for cost in of_one])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=30, help="of each client")
    parser.add_argument("--long-lists", type=int, default=2, help="clients that send long lists beside them")
    parser.add_argument("--dtype", default="float32")
    main(**vars(parser.parse_args()))
