"""What a whole store is searched by: its keys in 8 bits, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from blockrank_rerank.engine.state_lookup import StateLookup
from blockrank_rerank.engine.workers import computing, in_workers, worker_count
from blockrank_rerank.states.pack import grouped
from blockrank_rerank.states.quantized_keys import PART_TOKENS, POOLED_TOKENS, QuantizedKeys, joined
from blockrank_rerank.states.stored_documents import Place, StoredDocuments
from blockrank_rerank.system.forks import ForkLock

if TYPE_CHECKING:
    from blockrank_rerank.engine.engine import Engine
    from blockrank_rerank.model.quantized_query import QuantizedQuery
    from blockrank_rerank.states.document_states import DocumentStates
    from blockrank_rerank.states.store import StateStore


@dataclass(frozen=True, eq=False)
class Searched:
    """A store at one moment.

    Attributes
    ----------
    places : sequence of Place
        Of its documents.
    parts : list of QuantizedKeys
        Keys of its blocks, in order.
    owners, blocks : Tensor
        ``[B]`` int64: the document and the block of every block of a document; documents may share one.
    """

    places: Sequence[Place]
    parts: list[QuantizedKeys]
    owners: Tensor
    blocks: Tensor

    def bounds(self, engine: Engine, query: str, looked_at: int | None = None) -> Tensor:
        """Bound the raw score of every document, that of its best block.

        Parameters
        ----------
        engine : Engine
            Whose index this is.
        query : str
            One that fits.
        looked_at : int, optional
            How many documents are looked at closely, chosen by pooled keys; all if not given.

        Returns
        -------
        Tensor
            ``[3, N]``: the middle, and a lower and an upper bound; of what was not looked at, all are -inf.
        """
        asked = _quantized(engine, query)
        owners, blocks, parts = self.owners, self.blocks, self.parts
        if looked_at is not None and looked_at < len(self.places):
            pooled = _raw_scores(asked, self._pooled)[:, blocks]
            chosen = self._best(pooled[:1], owners)[0].topk(looked_at).indices
            close = torch.isin(owners, chosen)
            owners, own = owners[close], blocks[close]
            unique, blocks = own.unique(return_inverse=True)
            parts = [joined([*self._selected(unique)])]
        middle, error = _raw_scores(asked, parts)[:, blocks]
        return self._best(torch.stack([middle, middle - error, middle + error]), owners)

    @cached_property
    def _pooled(self) -> list[QuantizedKeys]:
        """Made of the parts when they are first asked for."""
        pooled = [part.pooled() for part in self.parts]
        return [joined(pooled[first : first + POOLED_TOKENS]) for first in range(0, len(pooled), POOLED_TOKENS)]

    def _selected(self, blocks: Tensor) -> Iterator[QuantizedKeys]:
        """Keys of some blocks, in ascending order, part by part."""
        first = 0
        for part in self.parts:
            last = first + len(part.lengths)
            inside = blocks[(blocks >= first) & (blocks < last)]
            if len(inside):
                yield part.select(inside - first)
            first = last

    def _best(self, of_blocks: Tensor, owners: Tensor) -> Tensor:
        """``[…, B]`` to ``[…, N]``."""
        lowest = of_blocks.new_full((*of_blocks.shape[:-1], len(self.places)), float("-inf"))
        return lowest.scatter_reduce(-1, owners.expand_as(of_blocks), of_blocks, "amax")


def _quantized(engine: Engine, query: str) -> QuantizedQuery:
    with torch.inference_mode(), computing.lock:
        return engine.backbone.quantized_query(engine.layout([engine.prompt.encode(query, [])]))


def _raw_scores(query: QuantizedQuery, parts: Sequence[QuantizedKeys]) -> Tensor:
    return torch.cat(in_workers(query.raw_scores, parts, worker_count(len(parts))), -1)


class LostStatesError(ValueError):
    """A store does not have the states of one of its documents."""


class SearchIndex:
    """Keys of a store in 8 bits, kept in memory and in step with the folder; threads may share one.

    What is new in the folder is read when the store is next searched. Keys of what was replaced or deleted stay until
    they are the most; then all others are read anew.

    Parameters
    ----------
    documents : StoredDocuments
        Of the store.
    """

    def __init__(self, documents: StoredDocuments) -> None:
        self.documents, self.lookup = documents, StateLookup(None, documents.folder)
        self._lock = ForkLock()
        self._numbers: dict[bytes, int] = {}
        self._searched: Searched | None = None

    def current(self, engine: Engine) -> Searched:
        """The store as it is now.

        Raises
        ------
        LostStatesError
            Where states of a document are missing.
        ValueError
            For the store of another model, and one without documents.
        """
        with self._lock:
            places = self.documents.places()
            if self._searched is None or places is not self._searched.places:
                self._searched = self._read(places, engine)
            return self._searched

    def _read(self, places: Sequence[Place], engine: Engine) -> Searched:
        folder = self.documents.folder
        store = self.lookup.opened(engine)  # refuses another model's
        if store is None or not places:
            raise ValueError(
                f"{folder} holds no documents to be searched: prepare the corpus with 'blockrank prepare CORPUS "
                f"{folder}', which reads nothing again whose states are there"
            )
        of_documents = [place.blocks for place in places]
        used = dict.fromkeys(block for blocks in of_documents for block in blocks)
        numbers, parts = ({}, []) if self._searched is None else (self._numbers, self._searched.parts)
        if len(numbers) > 2 * len(used):  # mostly of what is no more: every search looks at all of them
            numbers, parts = {}, []
        if new := [block for block in used if block not in numbers]:
            store.refresh()
            states = grouped(self._states(new, store), PART_TOKENS)
            parts = [*parts, *(QuantizedKeys.of(pack, engine.prompt.unknown_id) for pack in states)]
            numbers = numbers | dict(zip(new, range(len(numbers), len(numbers) + len(new)), strict=True))
        self._numbers = numbers
        owners = [owner for owner, blocks in enumerate(of_documents) for _ in blocks]
        blocks_of = [numbers[block] for blocks in of_documents for block in blocks]
        return Searched(places, parts, torch.tensor(owners, device="cpu"), torch.tensor(blocks_of, device="cpu"))

    def _states(self, blocks: Iterable[bytes], store: StateStore) -> Iterator[DocumentStates]:
        for block in blocks:
            states = store.get_block(block)
            if states is None:
                raise LostStatesError(
                    f"{self.documents.folder} has lost states of its documents, so that not all can be searched: "
                    "prepare the corpus again, which reads only those"
                )
            yield states


_indexes: WeakKeyDictionary[nn.Module, dict[Path, SearchIndex]] = WeakKeyDictionary()
"""By the model, which engines with other tunings share, as they do the states."""


def search_index(engine: Engine, documents: StoredDocuments) -> SearchIndex:
    """The index of a store for a model, which has one for each as long as it lives."""
    return _indexes.setdefault(engine.backbone.model, {}).setdefault(documents.folder, SearchIndex(documents))


def new_search_index(engine: Engine, folder: Path) -> SearchIndex:
    """A new one in its place, which reads all of the store again."""
    index = SearchIndex(StoredDocuments(folder))
    _indexes.setdefault(engine.backbone.model, {})[folder] = index
    return index
