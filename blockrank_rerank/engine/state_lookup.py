"""Where the states of documents are looked for before a document is read."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from blockrank_rerank.engine.fingerprint import earlier_fingerprint
from blockrank_rerank.states.cache import StateCache
from blockrank_rerank.states.document_states import DocumentStates
from blockrank_rerank.states.store import StateStore
from blockrank_rerank.text.document import Source

if TYPE_CHECKING:
    from blockrank_rerank.engine.engine import Engine
    from blockrank_rerank.states.group_files import Location, TextDigests

Reader = Callable[[Sequence[str]], Iterator[DocumentStates]]
"""Computes the states of different texts, in their order."""


def opened_store(engine: Engine, folder: Path, dtype: torch.dtype | None = None) -> StateStore:
    """Open the store of an engine's states; begins one where there is none and a dtype is given.

    Raises
    ------
    FileNotFoundError, ValueError
        As :class:`StateStore`.
    """

    def earlier() -> str:
        return earlier_fingerprint(engine.config, engine.prompt, engine.backbone)

    return StateStore(folder, engine.fingerprint, dtype, engine.settings, earlier)


class StateLookup:
    """Where a ranker looks for documents' states before it reads the documents.

    Parameters
    ----------
    cache : StateCache, optional
        Keeps what was found or made.
    folder : Path, optional
        Of a :class:`StateStore`; read only, and opened when it is first needed.
    cache_device : torch.device, optional
        Where the cache lies; the model's device if not given.
    """

    def __init__(self, cache: StateCache | None, folder: Path | None, cache_device: torch.device | None = None) -> None:
        self.cache, self.folder, self.cache_device = cache, folder, cache_device
        self.has_compared = False
        """Whether a list was compared with the store already: see :meth:`ListLookup.check_store`."""
        self._store: StateStore | None = None

    def opened(self, engine: Engine) -> StateStore | None:
        """The store, where there is one; raises ValueError for another model's."""
        if self._store is None and self.folder is not None:
            self._store = opened_store(engine, self.folder)
        return self._store

    def of_list(self, engine: Engine, digests: TextDigests) -> ListLookup:
        """Look for the documents of one list, whose texts have these digests; opens the store."""
        return ListLookup(self, engine, digests)

    def __deepcopy__(self, memo: dict[int, Any]) -> StateLookup:
        return self

    def __reduce__(self) -> tuple[type[StateLookup], tuple[StateCache | None, Path | None, torch.device | None]]:
        return StateLookup, (self.cache, self.folder, self.cache_device)


class ListLookup:
    """Where the documents of one list are looked for; whatever is asked, a text is digested once.

    Parameters
    ----------
    lookup : StateLookup
        Of the ranker.
    engine : Engine
        Whose states they are.
    digests : TextDigests
        Of the list's texts, as far as they are made.
    """

    def __init__(self, lookup: StateLookup, engine: Engine, digests: TextDigests) -> None:
        self.cache = lookup.cache
        self._lookup, self._engine, self._digests = lookup, engine, digests
        self._store = lookup.opened(engine)

    def refresh(self) -> None:
        """Take up what was prepared since, by this process or another."""
        if self._store is not None:
            self._store.refresh_if_changed()

    def knows(self, text: str) -> bool:
        """Whether there are states of a whole text: it is one block then, whoever has it as a title or as a text."""
        if self.cache is not None and self.cache.holds_whole(text):
            return True
        location = self._location(text)
        return location is not None and not location.truncated

    def source(self, text: str) -> Source:
        """Say where the states of a text would come from now; counts as no use of them."""
        if self.cache is not None and text in self.cache:
            return "cached"
        return "read" if self._location(text) is None else "stored"

    def check_store(self, texts: Sequence[str]) -> None:
        """Warn where the first list has nothing in the store: its texts may have been prepared in another form."""
        if self._store is None or self._lookup.has_compared or not texts:
            return
        self._lookup.has_compared = True
        if any(self._location(text) for text in texts):
            return
        warnings.warn(
            f"none of {len(set(texts))} documents is in the store {self._lookup.folder}: they are found by the whole "
            "text that the model reads, title, metadata and prefixes included (docs/prepared.md)",
            stacklevel=7,  # whoever called rank
        )

    def get(self, texts: Sequence[str], read: Reader, batch: int | None = None) -> Iterator[DocumentStates]:
        """Yield states of texts in their order, read where there are none; looks at so many texts at a time."""
        step = max(batch or len(texts), 1)
        for start in range(0, len(texts), step):
            yield from self._of_batch(texts[start : start + step], read)

    def keep(self, text: str, states: DocumentStates) -> None:
        """Put states of a text into the cache, if there is one."""
        if self.cache is not None:
            self.cache.put(text, states.to(self._lookup.cache_device or self._engine.device))

    def _of_batch(self, texts: Sequence[str], read: Reader) -> Iterator[DocumentStates]:
        times = Counter(texts)
        cached = {text: None if self.cache is None else self.cache.get(text) for text in times}
        missing = [text for text, found in cached.items() if found is None and self._location(text) is None]
        computed, to_compute = read(missing), set(missing)
        for text in texts:
            states = cached[text]
            if states is None:
                states = next(computed) if text in to_compute else self._stored(text)
                self.keep(text, states)
            if times[text] > 1:  # comes again
                cached[text] = states
            yield states

    def _location(self, text: str) -> Location | None:
        return None if self._store is None else self._store.location(self._digests[text])

    def _stored(self, text: str) -> DocumentStates:
        states = None if self._store is None else self._store.get_block(self._digests[text])
        if states is None:  # what is damaged is computed again
            return next(self._engine.document_states([text], self._engine.dtype))
        # What was checked must stay what it was, and the file may change.
        return states if self.cache is None else states.copy()
