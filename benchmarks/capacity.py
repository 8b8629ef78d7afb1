"""Measure what requests cost a core, and say how many cores and bytes a fleet needs.

    python benchmarks/capacity.py --documents-per-second 2000 [--documents 20] [--requests 20] [--dtype float32]
    python benchmarks/capacity.py --documents-per-second 2000 --costs 0.002,0.01,0.0005

The first command loads a server over loopback in one thread, with lists that are read, and with lists from its cache.
The second takes the costs that the first has printed: seconds of a core for a request, for a document that is read,
and for one that is known. Seconds are of this process's CPU, the clients' share included: other programs change little.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from common import require_green
from scaling import passages

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine

HIT_RATES = (0.0, 0.5, 0.9, 0.99, 1.0)
BUSY = 0.7
"""Share of the time that a core works in a fleet that is not to make requests wait long: at 0.7, a queue with one core
and times of any length holds about two requests (Pollaczek and Khinchine)."""


class Costs(NamedTuple):
    """Seconds of one core: for a request, for a document that is read, and for one whose states are known."""

    request: float
    read: float
    known: float


def cores(documents_per_second: float, documents: float, hit_rate: float, costs: Costs, busy: float = BUSY) -> float:
    """Cores that a fleet needs.

    Parameters
    ----------
    documents_per_second : float
        Of all requests together.
    documents : float
        Of a request.
    hit_rate : float
        Share of documents whose states are in a cache or a store, in 0..1.
    costs : Costs
        As measured on a machine of the fleet.
    busy : float
        Share of the time that cores work, above 0 and at most 1.
    """
    for_a_document = costs.request / documents + hit_rate * costs.known + (1 - hit_rate) * costs.read
    return documents_per_second * for_a_document / busy


def fitted(small: int, of_small: float, large: int, of_large: float) -> tuple[float, float]:
    """Seconds of a request and of each of its documents, from requests of two sizes."""
    each = max((of_large - of_small) / (large - small), 0.0)  # noise of few requests may be larger
    return max(of_small - small * each, 0.0), each


def seconds_of_a_request(url: str, lists: Sequence[Sequence[Sequence[str]]]) -> float:
    """Seconds of this process's CPU for each request of a load."""
    from loopback import load

    start = time.process_time()
    asyncio.run(load(url, lists))
    return (time.process_time() - start) / sum(map(len, lists))


def measured(documents: int, requests: int, dtype: str) -> Costs:
    """Load a server with lists of one document and of many, cold and cached, and print what each takes."""
    from loopback import lists_of, load, served  # with --costs no server is needed

    torch.set_num_threads(1)
    print("| | CPU ms a request | requests/s per core |\n|---|---|---|")
    seconds: dict[tuple[str, int], float] = {}
    with served(BlockRankReranker.from_pretrained(dtype=dtype, cache="4GB")) as url:
        asyncio.run(load(url, lists_of(1, 2, 3)))
        for size in (1, documents):
            lists = lists_of(2, max(requests // 2, 1), size)
            for name in ("read", "known"):
                seconds[name, size] = each = seconds_of_a_request(url, lists)
                print(f"| {size} documents, {name} | {1000 * each:,.1f} | {1 / each:.1f} |", flush=True)
    request, known = fitted(1, seconds["known", 1], documents, seconds["known", documents])
    _, read = fitted(1, seconds["read", 1], documents, seconds["read", documents])
    return Costs(request, read, known)


def bytes_of_states() -> None:
    """Print bytes of states of a passage, as the cache counts them."""
    ranker, texts = BlockRankReranker.from_pretrained(dtype="float32"), passages(20)
    print("\n| states in | bytes a token | bytes a passage of about 120 words | passages in 1 GB |\n|---|---|---|---|")
    for dtype in ("float32", "bfloat16", "int8"):
        states = ranker.prepare(texts, dtype=dtype, show_progress=False).states
        nbytes, tokens = sum(document.nbytes for document in states), sum(len(document.ids) for document in states)
        print(f"| {dtype} | {nbytes / tokens:,.0f} | {nbytes / len(texts):,.0f} | {1e9 * len(texts) / nbytes:,.0f} |")


def main(documents_per_second: float, documents: int, requests: int, dtype: str, costs: Costs | None) -> None:
    """Print tables, and the costs as an argument for the next time."""
    print(machine())
    if costs is None:
        require_green("tests/serving/test_scheduler.py")
        costs = measured(documents, requests, dtype)
        bytes_of_states()
        print(f"\n--costs {','.join(f'{cost:.6f}' for cost in costs)}")
    print(f"\n| known | cores for {documents_per_second:,.0f} documents/s in lists of {documents} |\n|---|---|")
    for hit_rate in HIT_RATES:
        print(f"| {hit_rate:.0%} | {cores(documents_per_second, documents, hit_rate, costs):,.1f} |")


def words_of_costs(text: str) -> Costs:
    """The three numbers of ``--costs``."""
    try:
        costs = Costs(*map(float, text.split(",")))
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"expected REQUEST,READ,KNOWN in seconds, got {text!r}") from None
    if min(costs) < 0:
        raise argparse.ArgumentTypeError(f"expected seconds that are not negative, got {text!r}")
    return costs


def above(least: int) -> Callable[[str], int]:
    """A whole number above another one, for an argument."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) <= least:
            raise argparse.ArgumentTypeError(f"expected a whole number above {least}, got {text!r}")
        return int(text)

    return read


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents-per-second", type=above(0), default=1000)
    parser.add_argument("--documents", type=above(1), default=20, help="of a list")
    parser.add_argument("--requests", type=above(0), default=20, help="of each kind that is measured")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--costs", type=words_of_costs, metavar="REQUEST,READ,KNOWN", help="instead of measuring")
    main(**vars(parser.parse_args()))
