"""Rankings that are awaited: in threads of our own, which stop when nobody waits any more."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache, partial
from threading import Event
from typing import Any, ParamSpec, TypeVar

from blockrank_rerank.engine.workers import STOP
from blockrank_rerank.ranking.request import Request
from blockrank_rerank.ranking.results import Ranking
from blockrank_rerank.text.document import GivenDocument

P = ParamSpec("P")
R = TypeVar("R")


async def in_executor(function: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
    """Call a function in a thread that is not the application's, with the caller's context.

    Cancelled, a call that still waits for a thread leaves the queue, and one that computes stops after the group of
    documents that it is at.
    """
    stop, context = Event(), copy_context()
    context.run(STOP.set, stop)
    future = _executor().submit(context.run, partial(function, *arguments, **keywords))
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        stop.set()
        future.cancel()
        raise


class AsyncRanking:
    """Awaitable forms of ``rank`` and ``rank_batch``, for a class that has both."""

    async def arank(
        self,
        query: str,
        documents: Iterable[GivenDocument],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        min_probability: float | None = None,
        deadline_ms: float | None = None,
        tuning: str | None = None,
    ) -> Ranking:
        """As :meth:`rank`, in a thread of the package's own; a cancelled one stops after its group of documents.

        Parameters
        ----------
        query, documents, top_k, threshold, min_probability, deadline_ms, tuning
            As in :meth:`rank`; a deadline counts from when a thread is free.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As :meth:`rank`.
        """
        how: Any = {"top_k": top_k, "threshold": threshold, "min_probability": min_probability, "tuning": tuning}
        rank = self._method("rank")
        ranking: Ranking = await in_executor(rank, query, documents, **how, deadline_ms=deadline_ms)
        return ranking

    async def arank_batch(
        self,
        requests: Iterable[Request],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        min_probability: float | None = None,
        tuning: str | None = None,
        show_progress: bool | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[Ranking]:
        """As :meth:`rank_batch`, in a thread of the package's own; a cancelled one stops after its group of documents.

        Parameters
        ----------
        requests, top_k, threshold, min_probability, tuning, show_progress
            As in :meth:`rank_batch`.
        on_progress : callable, optional
            As in :meth:`rank_batch`; called in that thread.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As :meth:`rank_batch`.
        """
        rankings: list[Ranking] = await in_executor(
            self._method("rank_batch"),
            requests,
            top_k=top_k,
            threshold=threshold,
            min_probability=min_probability,
            tuning=tuning,
            show_progress=show_progress,
            on_progress=on_progress,
        )
        return rankings

    def _method(self, name: str) -> Any:
        return getattr(self, name)


def thread_count() -> int:
    """One thread for each core that this process may use: more would wait for each other."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_count(), "blockrank-async")


if hasattr(os, "register_at_fork"):
    # Threads do not survive in a child.
    os.register_at_fork(after_in_child=_executor.cache_clear)
