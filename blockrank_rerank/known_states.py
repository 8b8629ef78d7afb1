from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockrank_rerank.state_cache import StateCache
from blockrank_rerank.state_store import StateStore
from blockrank_rerank.states import DocumentStates

if TYPE_CHECKING:
    from blockrank_rerank.engine import Engine


class KnownStates:
    """Where a ranker looks for a document's states before it reads the document.

    Parameters
    ----------
    cache : StateCache, optional
        Keeps what was found or made.
    folder : Path, optional
        Of a :class:`StateStore`; read only, and opened when it is first needed.
    """

    def __init__(self, cache: StateCache | None, folder: Path | None) -> None:
        self.cache, self.folder = cache, folder
        self._store: StateStore | None = None
        self._settled = False

    def get(self, texts: Sequence[str], engine: Engine) -> list[DocumentStates]:
        """States of texts, made where they are not known."""
        found = {text: self._find(text, engine) for text in dict.fromkeys(texts)}
        self._warn_of_useless_store(found)
        missing = [text for text, states in found.items() if states is None]
        for text, made in zip(missing, engine.document_states(missing, engine.dtype), strict=True):
            self._keep(text, made)
            found[text] = made
        return [states for text in texts if (states := found[text]) is not None]

    def knows(self, text: str, engine: Engine) -> bool:
        """Whether there are states of a whole text: it is one block then, whoever has it as a title or as a text."""
        store = self._opened(engine)
        return (self.cache is not None and self.cache.holds_whole(text)) or (
            store is not None and store.holds_whole(text)
        )

    def _find(self, text: str, engine: Engine) -> DocumentStates | None:
        states = self.cache.get(text) if self.cache is not None else None
        store = self._opened(engine)
        if states is None and store is not None:
            states = store.get(text)
            if states is not None:
                self._keep(text, states)
        return states

    def _warn_of_useless_store(self, found: Mapping[str, DocumentStates | None]) -> None:
        """Where the first list has nothing in the store: its texts may have been prepared in another form."""
        if self.folder is None or self._settled or not found:
            return
        self._settled = True
        if any(found.values()):
            return
        warnings.warn(
            f"none of {len(found)} documents is in the store {self.folder}: they are found by the whole text that the "
            "model reads, title, metadata and prefixes included (docs/prepared.md)",
            stacklevel=8,  # whoever called rank
        )

    def _opened(self, engine: Engine) -> StateStore | None:
        if self._store is None and self.folder is not None:
            self._store = StateStore(self.folder, engine.fingerprint, settings=engine.settings)
        return self._store

    def _keep(self, text: str, states: DocumentStates) -> None:
        if self.cache is not None:
            self.cache.put(text, states)

    def __deepcopy__(self, memo: dict[int, Any]) -> KnownStates:
        return self

    def __reduce__(self) -> tuple[type[KnownStates], tuple[StateCache | None, Path | None]]:
        return KnownStates, (self.cache, self.folder)
