"""Threads that share out torch's threads among them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextvars import ContextVar
from functools import cache
from threading import Barrier, Event, Lock
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

STOP: ContextVar[Event | None] = ContextVar("blockrank_stop", default=None)
"""Set by whoever waits for the work of this context, once nobody does."""


def stop_if_cancelled() -> None:
    """Leave work that nobody waits for; raises CancelledError, which nobody sees."""
    stop = STOP.get()
    if stop is not None and stop.is_set():
        raise CancelledError("nobody waits for this ranking any more")


def worker_count(most: int) -> int:
    """At most so many workers, at least one, among which torch's threads divide evenly."""
    threads = torch.get_num_threads()
    return max(count for count in range(1, max(most, 1) + 1) if threads % count == 0)


def in_workers(function: Callable[[T], R], items: Sequence[T], workers: int) -> list[R]:
    """``function`` of every item, in order and in inference mode, by so many threads that share out torch's.

    While one of them assembles its calls the others compute; otherwise all of torch's threads would wait for that
    (dev/LOG.md). Workers serve every caller in turn, and must not call for workers themselves. Work that was cancelled
    stops between items.
    """

    def here(item: T) -> R:
        stop_if_cancelled()
        return work(item)

    def work(item: T) -> R:
        # A mode of the calling thread alone.
        with torch.inference_mode():
            return function(item)

    workers = min(workers, len(items))
    if workers < 2:
        return [here(item) for item in items]
    with _lock:
        pool = _pool(workers, torch.get_num_threads() // workers)
    stop_if_cancelled()
    futures = [pool.submit(work, item) for item in items]
    try:
        results = []
        for future in futures:
            results.append(future.result())
            stop_if_cancelled()
        return results
    finally:
        for future in futures:
            future.cancel()


_lock = Lock()


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Workers with so many of torch's threads each; they stay, since new ones would have to warm up in every call."""
    threads_of_caller = torch.get_num_threads()
    ready = Barrier(workers + 1)

    def start() -> None:
        # A thread's first question for the number sets it to the latest one of any thread.
        torch.get_num_threads()
        torch.set_num_threads(threads)
        ready.wait()

    pool = ThreadPoolExecutor(workers, "blockrank", start)
    try:
        for _ in range(workers):
            pool.submit(int)
        ready.wait()
    except BaseException:
        ready.abort()
        raise
    finally:
        torch.set_num_threads(threads_of_caller)
    return pool


def _forget_pools() -> None:
    """What a child of the process needs: threads do not survive in it, and a lock may be held for ever."""
    global _lock
    _lock = Lock()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)
