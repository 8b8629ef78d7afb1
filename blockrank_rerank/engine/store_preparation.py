"""Bringing a corpus into a store."""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch

from blockrank_rerank.engine.state_lookup import opened_store
from blockrank_rerank.engine.workers import without_autocast
from blockrank_rerank.errors import DocumentError, shown_ids
from blockrank_rerank.states.document_files import MAX_ID_CHARACTERS, StoredDocument
from blockrank_rerank.states.document_states import DTYPES, DocumentStates
from blockrank_rerank.states.group_files import GROUP_BYTES, text_digest
from blockrank_rerank.states.manifest import MANIFEST_NAME
from blockrank_rerank.states.store import StateStore
from blockrank_rerank.states.stored_documents import Changes, StoredDocuments
from blockrank_rerank.system.files import UserPath, absolute
from blockrank_rerank.text.blocks import Blocks
from blockrank_rerank.text.document import check_is_list, document_id, document_text, given_text, plain_document
from blockrank_rerank.text.prompt import TokenisedBlocks

if TYPE_CHECKING:
    from pathlib import Path

    from blockrank_rerank.engine.engine import Engine
    from blockrank_rerank.text.document import Document, GivenDocument

LOOK_AHEAD = 256
"""Documents that are taken at a time, so that a corpus never is in memory as a whole."""


class Preparation(NamedTuple):
    """What was done to a store.

    A document is one block, or several where it is too long for one.

    Attributes
    ----------
    prepared, found : int
        Blocks that were read now, and that were in the store.
    blocks, nbytes : int
        All that it holds, and the bytes of their states.
    added, replaced, unchanged : int
        Documents that are new, whose id had another text or title before, and that were there.
    documents : int
        All that it holds.
    unused : int
        Blocks whose documents were all replaced or deleted; they stay in the files and are in nobody's way.
    """

    prepared: int
    found: int
    blocks: int
    nbytes: int
    added: int
    replaced: int
    unchanged: int
    documents: int
    unused: int


class _Chunk(NamedTuple):
    """Some neighbouring documents of a corpus: the index of the first, and each as it is ranked, read and kept."""

    first: int
    plain: list[Document]
    texts: list[str]
    documents: list[StoredDocument]


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
    store, kept = opened_store(engine, folder, dtype), StoredDocuments(folder)
    store.renew()
    store.set_damaged_aside()
    kept.set_damaged_aside()
    prepared = found = 0
    changes, repeated = Changes(), _RepeatedIds()
    for chunk in _chunks(documents):  # which may be computed with the application's autocast
        with without_autocast():
            blocks, tokenised = Blocks.of("", chunk.plain, chunk.texts, engine.prompt, store.holds_whole, chunk.first)
            unique = list(dict.fromkeys(blocks.texts))
            # Read, and not only looked up: what is damaged is prepared again.
            missing = [text for text in unique if store.get(text) is None]
            found += len(unique) - len(missing)
            for count, tokens in _append(missing, tokenised, engine, store):
                prepared += count
                on_progress(0, tokens)
            # Last, so that whoever is interrupted leaves no document without its states.
            changes = changes.plus(kept.put(chunk.documents, _block_digests(blocks)))
            # Until then compacting took states that were found for nobody's.
            store.refresh_if_changed()
            for _ in _append([text for text in unique if text not in store], tokenised, engine, store):
                pass
        repeated.see(chunk)
        on_progress(len(chunk.texts), 0)
    repeated.warn(folder)
    return Preparation(prepared, found, len(store), store.nbytes, *changes, len(kept), kept.unused_blocks())


def _append(
    texts: Sequence[str], tokenised: TokenisedBlocks, engine: Engine, store: StateStore
) -> Iterator[tuple[int, int]]:
    """Read texts and write them to a store in groups; yield blocks that were new and tokens of each group."""
    most = GROUP_BYTES if engine.budget.file_bytes is None else min(GROUP_BYTES, engine.budget.file_bytes)
    for group, states in _groups(texts, engine.document_states(texts, store.dtype, tokenised), most):
        count = store.append(group, states)
        if engine.budget.max_memory is not None:
            trim_heap()
        yield count, sum(len(document.ids) for document in states)


def _block_digests(blocks: Blocks) -> list[bytes]:
    """Digests of each document's blocks, one after the other."""
    digests: dict[int, bytes] = {}
    for owner, text in zip(blocks.owners, blocks.texts, strict=True):
        digests[owner] = digests.get(owner, b"") + text_digest(text)
    return [*digests.values()]


class _RepeatedIds:
    """Ids that stand for several texts in one corpus, of which a store keeps the last."""

    def __init__(self) -> None:
        self._seen: dict[str, bytes] = {}
        self._repeated: dict[str, None] = {}

    def see(self, chunk: _Chunk) -> None:
        """Note the ids of a chunk."""
        for document, text in zip(chunk.documents, chunk.texts, strict=True):
            if document.id is not None:
                digest = text_digest(text)
                if self._seen.setdefault(document.id, digest) != digest:
                    self._repeated[document.id] = None

    def warn(self, folder: Path) -> None:
        """Warn once of all of them."""
        if self._repeated:
            warnings.warn(
                f"{len(self._repeated)} of the ids came with different texts, the last of which {folder} keeps under "
                f"the id: {shown_ids([*self._repeated])}; give every document an id of its own",
                stacklevel=4,  # whoever called prepare_store
            )


def _chunks(documents: Iterable[GivenDocument]) -> Iterator[_Chunk]:
    rest = enumerate(documents)
    while several := list(islice(rest, LOOK_AHEAD)):
        plain = [plain_document(document, index) for index, document in several]
        first = several[0][0]
        texts = [document_text(document, index) for index, document in enumerate(plain, start=first)]
        stored = [_stored(given, document, index) for (index, given), document in zip(several, plain, strict=True)]
        yield _Chunk(first, plain, texts, stored)


def _stored(given: GivenDocument, plain: Document, index: int) -> StoredDocument:
    """The document as a store keeps it; raises DocumentError for an id that cannot be one."""
    title = None if isinstance(plain, str) else plain.get("title")
    name = document_id(given)
    if name is None:
        return StoredDocument(None, given_text(plain), title or None)
    if not 0 < len(str(name)) <= MAX_ID_CHARACTERS:
        raise DocumentError(
            index,
            f"must have an id of 1 to {MAX_ID_CHARACTERS:,} characters, or none, got {len(str(name)):,} characters",
        )
    return StoredDocument(str(name), given_text(plain), title or None)


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
