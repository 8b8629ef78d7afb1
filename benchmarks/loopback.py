"""A server of a ranker in this process, and clients that load it over loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
import uvicorn
from cross_encoder import QUERY
from scaling import passages

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.serving.app import create_app
from blockrank_rerank.serving.limits import ServerLimits


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


def lists_of(clients: int, requests: int, documents: int) -> list[list[list[str]]]:
    """Lists of different documents for every request."""
    texts = enumerate(passages(clients * requests * documents))
    return [[["{} {}".format(*next(texts)) for _ in range(documents)] for _ in range(requests)] for _ in range(clients)]
