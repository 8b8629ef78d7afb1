"""A process may fork at any time, and the child finds no lock held and nothing half-written."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TypeVar
from weakref import WeakSet

import filelock  # noqa: F401

R = TypeVar("R")

WAIT_S = 20.0
"""How long a fork waits for sections of other threads; the child has open locks afterwards in any case."""


class _Sections:
    """Sections of threads which the process does not fork inside of."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.Lock())
        self.depths: Counter[int] = Counter()
        self.forking = 0

    def enter(self) -> None:
        """Begin a section; the first one of a thread waits until a fork that is under way is done."""
        thread = threading.get_ident()
        with self.changed:
            if not self.depths[thread]:
                self.changed.wait_for(lambda: not self.forking)
            self.depths[thread] += 1

    def leave(self) -> None:
        """End a section, and let a fork go on that waits for it."""
        thread = threading.get_ident()
        with self.changed:
            self.depths[thread] -= 1
            # In a child a section of the parent may end that the child has never begun.
            if self.depths[thread] <= 0:
                del self.depths[thread]
            self.changed.notify_all()

    def stop(self) -> None:
        """Wait until no other thread is inside of a section, at most :data:`WAIT_S`, and let none begin one."""
        thread, deadline = threading.get_ident(), time.monotonic() + WAIT_S
        with self.changed:
            self.forking += 1
            self.changed.wait_for(lambda: not self.depths.keys() - {thread}, max(deadline - time.monotonic(), 0))

    def go_on(self) -> None:
        """Let sections begin again."""
        with self.changed:
            self.forking -= 1
            self.changed.notify_all()


_sections = _Sections()
_locks: WeakSet[ForkLock] = WeakSet()


@contextmanager
def unforked() -> Iterator[None]:
    """Make a fork by another thread wait until the block ends.

    Inside of it a thread must not wait for another one that begins such a block.
    """
    sections = _sections
    sections.enter()
    try:
        yield
    finally:
        sections.leave()


class ForkLock(AbstractContextManager[None]):
    """A lock that no fork finds held, and that is open in every child; threads enter it one at a time."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        _sections.enter()
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._lock.release()
        finally:
            _sections.leave()

    def _renew(self) -> None:
        # What the forking thread holds itself it goes on to hold.
        if not self._lock._is_owned():  # type: ignore[attr-defined]
            self._lock = threading.RLock()


def _renew() -> None:
    """Renew in a child what threads may hold that do not survive in it."""
    global _sections
    sections = _Sections()
    thread = threading.get_ident()
    if depth := _sections.depths.get(thread, 0):
        sections.depths[thread] = depth
    _sections = sections
    for lock in list(_locks):
        lock._renew()


def at_fork(before: Callable[[], object], in_parent: Callable[[], object], in_child: Callable[[], object]) -> None:
    """Call functions around every fork of this process, where the system can fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


# What is registered last is called first before a fork. Filelock stops its locks there, and must come after ours: a
# section that holds one would not end. This is why it is imported above.
at_fork(lambda: _sections.stop(), lambda: _sections.go_on(), _renew)
