"""Threads that share out torch's threads among them."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from threading import Barrier, Event, RLock, local
from time import monotonic
from typing import TypeVar
from weakref import WeakSet

import torch

from blockrank_rerank.system import forks
from blockrank_rerank.system.forks import ForkLock, at_fork

T = TypeVar("T")
R = TypeVar("R")

STOP: ContextVar[Event | None] = ContextVar("blockrank_stop", default=None)
"""Set by whoever waits for the work of this context, once nobody does."""


PART_DONE: ContextVar[Callable[[float], None] | None] = ContextVar("blockrank_part_done", default=None)
"""Told which share of the one list that is scored has just been read, for whoever waits for a long one."""


def stop_if_cancelled() -> None:
    """Leave work that nobody waits for; raises CancelledError, which nobody sees."""
    stop = STOP.get()
    if stop is not None and stop.is_set():
        raise CancelledError("nobody waits for this ranking any more")


def telling(function: Callable[[T], R], parts: int) -> Callable[[T], R]:
    """``function`` of a part of a list, of so many equal ones; whoever waits is told of each that is done."""
    tell = PART_DONE.get()  # workers have contexts of their own

    def told(part: T) -> R:
        result = function(part)
        if tell:
            tell(1 / parts)
        return result

    return told


def telling_each(parts: Iterable[T], count: int) -> Iterator[T]:
    """Yield so many equal parts of a list; whoever waits is told of each as it comes."""
    tell = PART_DONE.get()
    for part in parts:
        if tell:
            tell(1 / count)
        yield part


AUTOCAST_DEVICES = ("cpu", "cuda", "mps")

_autocast_kept: ContextVar[bool] = ContextVar("blockrank_autocast_kept", default=False)


@contextmanager
def without_autocast() -> Iterator[None]:
    """Compute as if the application had set this thread no autocast, as workers do: a model says itself what it uses.

    A default device needs nothing here, as every tensor is made on a device that is named.
    """
    with ExitStack() as modes:
        for device in AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device) and not _autocast_kept.get():
                modes.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def ranking_with(autocast: torch.autocast) -> Iterator[None]:
    """Let rankings have an autocast after all: that with which their model is being trained."""
    token = _autocast_kept.set(True)
    try:
        with autocast:
            yield
    finally:
        _autocast_kept.reset(token)


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
        with torch.inference_mode(), computing.lock:
            return function(item)

    workers = min(workers, len(items))
    if workers < 2:
        return [here(item) for item in items]
    with _lock:
        pool = _pool(workers, torch.get_num_threads() // workers)
    stop_if_cancelled()
    futures: deque[Future[R]] = deque()
    results: list[R] = []
    try:
        for item in items:
            # No more than keeps the workers busy: what others ask for waits for that, and not for the whole of a list.
            if len(futures) == workers:
                results.append(futures.popleft().result())
                stop_if_cancelled()
            futures.append(pool.submit(work, item))
        while futures:
            results.append(futures.popleft().result())
            stop_if_cancelled()
        return results
    finally:
        for future in futures:
            future.cancel()


class _Computing(local):
    """What a thread holds while it computes, and the locks of other threads that it holds while it forks.

    A fork waits for passes of other threads: libraries have locks of their own, which a child could not open.
    """

    def __init__(self) -> None:
        self.lock = RLock()
        self.others: list[RLock] = []
        _pass_locks.add(self.lock)


_pass_locks: WeakSet[RLock] = WeakSet()

computing = _Computing()
"""Of each thread its own; ``computing.lock`` is held during a pass, and not while another thread's is waited for."""

_lock = ForkLock()


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


_PAUSE_SOFT = 1
"""OpenMP's ``omp_pause_soft``."""

_paused = True
"""Whether the thread that forks has no threads of OpenMP at that moment."""


@cache
def _libgomp(path: str) -> ctypes.CDLL | None:
    """GNU's OpenMP at that path, if it can end its threads, as it can since GCC 9."""
    try:
        library = ctypes.CDLL(path)
    except OSError:
        return None
    return library if hasattr(library, "omp_pause_resource_all") else None


def _libgomp_paths() -> set[str]:
    """Files of GNU's OpenMP that this process has loaded: torch brings one along, and so may others."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # another system, whose OpenMP looks after forks itself
        return set()
    return {line.split(maxsplit=5)[5] for line in lines if "libgomp" in line.rpartition("/")[2]}


def _stop_passes() -> None:
    """Wait until no other thread computes, as long as a fork may wait at most."""
    deadline = monotonic() + forks.WAIT_S
    for lock in list(_pass_locks):
        if lock.acquire(timeout=max(deadline - monotonic(), 0)):
            computing.others.append(lock)


def _let_passes_go_on() -> None:
    while computing.others:
        computing.others.pop().release()


def _prepare_fork() -> None:
    _stop_passes()
    _pause_openmp()


def _pause_openmp() -> None:
    """End the OpenMP threads of the thread that forks; the next parallel region starts new ones.

    They do not survive in a child, and GNU's OpenMP would wait for them there for ever.
    """
    global _paused
    libraries = [_libgomp(path) for path in _libgomp_paths()]
    _paused = all(library and library.omp_pause_resource_all(_PAUSE_SOFT) == 0 for library in libraries)


def _forget_pools() -> None:
    """Forget in a child what threads did not survive in it; where OpenMP waits for them, compute without it."""
    _let_passes_go_on()
    _pool.cache_clear()
    if not _paused:
        torch.set_num_threads(1)


at_fork(_prepare_fork, _let_passes_go_on, _forget_pools)
