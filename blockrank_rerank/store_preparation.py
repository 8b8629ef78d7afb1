from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from blockrank_rerank.state_store import MANIFEST_NAME, StateStore
from blockrank_rerank.states import DocumentStates

if TYPE_CHECKING:
    from blockrank_rerank.engine import Engine

GROUP_BYTES = 32_000_000
"""States of one file of a store: what a kill loses at most, and what is held in memory."""

LOOK_AHEAD = 1024
"""Documents that are taken at a time, so that a corpus never is in memory as a whole."""


class Preparation(NamedTuple):
    """What was done to a store: documents prepared now, found there already, and the store's bytes and documents."""

    prepared: int
    found: int
    documents: int
    nbytes: int


def prepare_store(
    engine: Engine,
    folder: Path,
    texts: Iterable[str],
    dtype: torch.dtype | None,
    on_progress: Callable[[int, int], None],
) -> Preparation:
    """Bring texts into a store that may hold some of them already."""
    new = not (folder / MANIFEST_NAME).exists()
    store = StateStore(folder, engine.fingerprint, engine.dtype if new and dtype is None else dtype)
    prepared = found = 0
    for chunk in _chunks(texts):
        unique = list(dict.fromkeys(chunk))
        # Read, and not only looked up: what is damaged is prepared again.
        missing = [text for text in unique if store.get(text) is None]
        found += len(unique) - len(missing)
        on_progress(len(chunk) - len(missing), 0)
        for group, states in _groups(missing, engine.document_states(missing, store.dtype)):
            store.append(group, states)
            prepared += len(group)
            on_progress(len(group), sum(len(one.ids) for one in states))
    return Preparation(prepared, found, len(store), store.nbytes)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while chunk := list(islice(rest, LOOK_AHEAD)):
        yield chunk


def _groups(texts: Sequence[str], states: Iterable[DocumentStates]) -> Iterator[tuple[list[str], list[DocumentStates]]]:
    group: list[DocumentStates] = []
    first = nbytes = 0
    for number, one in enumerate(states, start=1):
        group.append(one)
        nbytes += one.nbytes
        if nbytes >= GROUP_BYTES or number == len(texts):
            yield list(texts[first:number]), group
            group, first, nbytes = [], number, 0
