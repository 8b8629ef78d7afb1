"""States in memory, the least recently used ones dropped first."""

from __future__ import annotations

import re
from collections import OrderedDict
from decimal import Decimal
from typing import Any, NamedTuple

from blockrank_rerank.states.document_states import DocumentStates
from blockrank_rerank.system.forks import ForkLock

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class CacheInfo(NamedTuple):
    """What a cache holds and how often it helped.

    Documents found, not found, and kept, each passage of a long one by itself; bytes kept, and allowed.
    """

    hits: int
    misses: int
    documents: int
    nbytes: int
    max_bytes: int


class StateCache:
    """States of documents by their text, the least recently used ones dropped first. Threads may share one.

    Parameters
    ----------
    max_bytes : int
        Most bytes of states to keep.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[str, DocumentStates] = OrderedDict()
        self._nbytes = self._hits = self._misses = 0
        self._lock = ForkLock()

    def get(self, text: str) -> DocumentStates | None:
        """States of a text, if they are kept."""
        with self._lock:
            states = self._kept.get(text)
            if states is None:
                self._misses += 1
            else:
                self._hits += 1
                self._kept.move_to_end(text)
            return states

    def __contains__(self, text: str) -> bool:
        with self._lock:
            return text in self._kept

    def holds_whole(self, text: str) -> bool:
        """Whether a text is here as one block that was not cut; counts as no use of it."""
        with self._lock:
            states = self._kept.get(text)
            return states is not None and not states.truncated

    def put(self, text: str, states: DocumentStates) -> None:
        """Keep states, unless they alone are more than the cache may hold."""
        if states.nbytes > self.max_bytes:
            return
        with self._lock:
            replaced = self._kept.pop(text, None)
            self._nbytes += states.nbytes - (replaced.nbytes if replaced else 0)
            self._kept[text] = states
            while self._nbytes > self.max_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._nbytes -= dropped.nbytes

    def info(self) -> CacheInfo:
        """Statistics since the cache was made."""
        with self._lock:
            return CacheInfo(self._hits, self._misses, len(self._kept), self._nbytes, self.max_bytes)

    def __deepcopy__(self, memo: dict[int, Any]) -> StateCache:
        return self

    def __reduce__(self) -> tuple[type[StateCache], tuple[int]]:
        return StateCache, (self.max_bytes,)


def parse_bytes(name: str, value: str | int) -> int:
    """Bytes of a number, or of a text such as ``2GB``.

    Raises
    ------
    ValueError
        For anything else, naming the argument.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", value.upper()) if isinstance(value, str) else None
    unit = found and (found[2] if found[2].endswith("B") or not found[2] else found[2] + "B")
    count = int(Decimal(found[1]) * _UNITS[unit]) if found and unit is not None else 0
    if count < 1:
        raise ValueError(f'{name} must be a number of bytes above 0, or text such as "2GB" or "500MB", got {value!r}')
    return count
