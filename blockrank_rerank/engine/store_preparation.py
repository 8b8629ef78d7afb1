"""Bringing a corpus into a store."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch

from blockrank_rerank.states.document_states import DTYPES, DocumentStates
from blockrank_rerank.states.manifest import MANIFEST_NAME
from blockrank_rerank.states.store import StateStore
from blockrank_rerank.system.files import UserPath, absolute
from blockrank_rerank.text.blocks import Blocks
from blockrank_rerank.text.document import check_is_list, document_text, plain_document

if TYPE_CHECKING:
    from blockrank_rerank.engine.engine import Engine
    from blockrank_rerank.text.document import Document, GivenDocument

GROUP_BYTES = 16_000_000
"""States of one file of a store at most, which is what a kill loses."""

LOOK_AHEAD = 256
"""Documents that are taken at a time, so that a corpus never is in memory as a whole."""


class Preparation(NamedTuple):
    """What was done to a store: blocks prepared now, found there already, and all that it holds, with its bytes.

    A document is one block, or several where it is too long for one.
    """

    prepared: int
    found: int
    blocks: int
    nbytes: int


def prepare_store(
    engine: Engine,
    folder: UserPath,
    documents: Iterable[GivenDocument],
    dtype: torch.dtype | None,
    on_progress: Callable[[int, int], None],
) -> Preparation:
    """Bring documents into a store that may hold some of them already; ``on_progress`` takes (documents, tokens)."""
    folder = absolute(folder, "folder")  # the documents may be made while the store is written
    new = not (folder / MANIFEST_NAME).exists()
    check_is_list(documents)
    engine.prompt.encode_documents([])  # a prompt that cannot be prepared leaves no store for the next one to find
    if new and dtype is None:
        dtype = engine.dtype if engine.dtype in DTYPES else torch.float32
    store = StateStore(folder, engine.fingerprint, dtype, engine.settings)
    store.set_damaged_aside()
    prepared = found = 0
    most = GROUP_BYTES if engine.budget.file_bytes is None else min(GROUP_BYTES, engine.budget.file_bytes)
    for first, chunk, texts in _chunks(documents):
        blocks, tokenised = Blocks.of("", chunk, texts, engine.prompt, store.holds_whole, first)
        unique = list(dict.fromkeys(blocks.texts))
        # Read, and not only looked up: what is damaged is prepared again.
        missing = [text for text in unique if store.get(text) is None]
        found += len(unique) - len(missing)
        for group, states in _groups(missing, engine.document_states(missing, store.dtype, tokenised), most):
            prepared += store.append(group, states)
            if engine.budget.max_memory is not None:
                trim_heap()
            on_progress(0, sum(len(document.ids) for document in states))
        on_progress(len(chunk), 0)
    return Preparation(prepared, found, len(store), store.nbytes)


def _chunks(documents: Iterable[GivenDocument]) -> Iterator[tuple[int, list[Document], list[str]]]:
    """Yield the index of the first document of a chunk, its documents as texts or mappings, and their texts."""
    rest = enumerate(documents)
    while chunk := list(islice(rest, LOOK_AHEAD)):
        plain = [plain_document(document, index) for index, document in chunk]
        first = chunk[0][0]
        yield first, plain, [document_text(document, index) for index, document in enumerate(plain, start=first)]


def _groups(
    texts: Sequence[str], states: Iterable[DocumentStates], most: int
) -> Iterator[tuple[list[str], list[DocumentStates]]]:
    """Yield texts with their states, about so many bytes at a time."""
    group: list[DocumentStates] = []
    first = nbytes = 0
    for number, document in enumerate(states, start=1):
        group.append(document)
        nbytes += document.nbytes
        if nbytes >= most or number == len(texts):
            yield list(texts[first:number]), group
            group, first, nbytes = [], number, 0


def trim_heap() -> None:
    """Give the system back what glibc keeps of freed memory; other C libraries keep little.

    Between tensors of ever other sizes it would keep as much again as lives at one time (dev/LOG.md).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
