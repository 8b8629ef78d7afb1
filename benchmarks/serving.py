"""Load a server over loopback: requests per second and latencies, beside a loop that ranks one list after the other.

    python benchmarks/serving.py [--clients 32] [--requests 4] [--documents 20] [--dtype bfloat16] [--mixed]

Every client sends its requests one after the other, over one connection. Lists are read (cold), found in the server's
cache (cached) or in a store (stored). With --mixed --documents 1000, clients of one document run beside four with such
lists, with the server's queue and with one that serves first who comes first, in one thread.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
import uvicorn
from common import require_green
from cross_encoder import QUERY
from scaling import passages

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine
from blockrank_rerank.serving import scheduler, service
from blockrank_rerank.serving.app import create_app
from blockrank_rerank.serving.limits import ServerLimits

LONG_LISTS = 4
"""Clients that send long lists while others send one document each."""


@contextmanager
def served(ranker: BlockRankReranker) -> Iterator[str]:
    """A server of this ranker in a thread; its address."""
    limits = ServerLimits(documents=100_000, body_bytes=1 << 30, waiting=10_000, seconds=3600)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(ranker, limits), log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


async def sent(url: str, lists: Sequence[Sequence[str]], seconds: list[float]) -> None:
    """Send lists one after the other, as one client, and note how long each took."""
    async with httpx.AsyncClient(timeout=None) as client:
        for documents in lists:
            start = time.perf_counter()
            answer = await client.post(f"{url}/v2/rerank", json={"query": QUERY, "documents": list(documents)})
            answer.raise_for_status()
            seconds.append(time.perf_counter() - start)


async def load(url: str, clients: Sequence[Sequence[Sequence[str]]]) -> tuple[float, list[float]]:
    """Send the lists of all clients at once; seconds in all, and of each request."""
    seconds: list[float] = []
    start = time.perf_counter()
    await asyncio.gather(*(sent(url, lists, seconds) for lists in clients))
    return time.perf_counter() - start, seconds


def row(name: str, seconds: float, each: Sequence[float]) -> None:
    """Print one line of the table."""
    ordered = sorted(each)
    shares = [ordered[min(int(share * len(ordered)), len(ordered) - 1)] for share in (0.5, 0.95, 0.99)]
    cells = " | ".join(f"{1000 * value:,.0f}" for value in shares)
    print(f"| {name} | {len(each) / seconds:.2f} | {cells} |", flush=True)


def lists_of(clients: int, requests: int, documents: int) -> list[list[list[str]]]:
    """Lists of different documents for every request."""
    texts = enumerate(passages(clients * requests * documents))
    return [[["{} {}".format(*next(texts)) for _ in range(documents)] for _ in range(requests)] for _ in range(clients)]


def throughput(clients: int, requests: int, documents: int, dtype: str) -> None:
    """Cold, cached and stored, beside a loop."""
    lists = lists_of(clients, requests, documents)
    flat = [documents for client in lists for documents in client]
    plain = BlockRankReranker.from_pretrained(dtype=dtype)
    plain.rank(QUERY, flat[0])
    each = []
    for documents_of_one in flat:
        start = time.perf_counter()
        plain.rank(QUERY, documents_of_one)
        each.append(time.perf_counter() - start)
    row("a loop, cold", sum(each), each)
    with served(plain) as url:
        row("server, cold", *asyncio.run(load(url, lists)))
    with served(BlockRankReranker.from_pretrained(dtype=dtype, cache="4GB")) as url:
        asyncio.run(load(url, lists))
        row("server, cached", *asyncio.run(load(url, lists)))
    with tempfile.TemporaryDirectory() as folder:
        plain.prepare_store(folder, [text for documents_of_one in flat for text in documents_of_one])
        with served(BlockRankReranker.from_pretrained(dtype=dtype, store=folder)) as url:
            row("server, stored", *asyncio.run(load(url, lists)))


class FirstComeFirstServed(scheduler.Scheduler):
    """One thread, and no order but that of arrival, one list at a time."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self._short._turn_cost = 0.0

    def submit(self, request: object, client: object = None) -> scheduler.Job:
        """Give every request the same cost, so that the queue keeps their order."""
        job = scheduler.Job(request, None, 1.0)
        self._short.push(job)
        return job


def mixed(clients: int, requests: int, documents: int, dtype: str) -> None:
    """One document beside long lists, with the server's queue and with first come, first served."""
    ranker = BlockRankReranker.from_pretrained(dtype=dtype)
    ranker.rank(QUERY, passages(10))
    short = lists_of(clients, requests, 1)
    long = lists_of(LONG_LISTS, 1, documents)
    for name, kind in (("server", scheduler.Scheduler), ("first come, first served", FirstComeFirstServed)):
        service.Scheduler = kind
        with served(ranker) as url:

            async def both(url: str = url) -> tuple[float, list[float], tuple[float, list[float]]]:
                lists = asyncio.create_task(load(url, long))
                await asyncio.sleep(0.5)
                seconds, each = await load(url, short)
                return seconds, each, await lists

            seconds, each, lists = asyncio.run(both())
        row(f"one document, {name}", seconds, each)
        row(f"{documents} documents, {name}", *lists)


def main(clients: int, requests: int, documents: int, dtype: str, beside: bool) -> None:
    """Print a table."""
    require_green("tests/serving/test_scheduler.py")
    print(machine())
    print("| | requests/s | p50 ms | p95 ms | p99 ms |\n|---|---|---|---|---|")
    (mixed if beside else throughput)(clients, requests, documents, dtype)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=4, help="of each client")
    parser.add_argument("--documents", type=int, default=20, help="of a list")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--mixed", dest="beside", action="store_true")
    main(**vars(parser.parse_args()))
