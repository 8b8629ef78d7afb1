"""Documents with the states that a model has made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import overload

from blockrank_rerank.states.document_states import DocumentStates
from blockrank_rerank.states.pack import SharedPack
from blockrank_rerank.text.blocks import Blocks
from blockrank_rerank.text.document import GivenDocument


class PreparedDocuments(Sequence[GivenDocument]):
    """Documents with the states that a model has made of them; accepted wherever documents are.

    Made by :meth:`BlockRankReranker.prepare`. Behaves as the sequence of the documents; a slice, and
    :meth:`select`, give prepared documents again and copy nothing.

    Parameters
    ----------
    documents : sequence of str or mapping
        As given.
    blocks : Blocks
        In which they were read.
    states : sequence of DocumentStates
        One per block.
    fingerprint : str
        Of the model that made them.
    """

    def __init__(
        self, documents: Sequence[GivenDocument], blocks: Blocks, states: Sequence[DocumentStates], fingerprint: str
    ) -> None:
        self.documents, self.blocks, self.states = list(documents), blocks, list(states)
        self.fingerprint = fingerprint

    def select(self, indices: Iterable[int]) -> PreparedDocuments:
        """Take some of the documents, in the order of the indices; negative ones count from the end."""
        chosen = [range(len(self))[index] for index in indices]
        blocks, positions = self.blocks.select(chosen)
        return PreparedDocuments(
            [self.documents[index] for index in chosen],
            blocks,
            [self.states[position] for position in positions],
            self.fingerprint,
        )

    def check_made_by(self, fingerprint: str) -> None:
        """Refuse documents of another model than the one with this fingerprint.

        Raises
        ------
        ValueError
            Saying what to do.
        """
        if self.fingerprint != fingerprint:
            raise ValueError(
                "documents were prepared by another model, revision, dtype or config than this ranker's: their "
                "states mean nothing to it; prepare them again with this ranker"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the states."""
        return sum(states.nbytes for states in self.states)

    @cached_property
    def pack(self) -> SharedPack:
        """The states side by side."""
        return SharedPack(self.states)

    def __len__(self) -> int:
        return len(self.documents)

    @overload
    def __getitem__(self, index: int) -> GivenDocument: ...

    @overload
    def __getitem__(self, index: slice) -> PreparedDocuments: ...

    def __getitem__(self, index: int | slice) -> GivenDocument | PreparedDocuments:
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        return self.documents[index]

    def __iter__(self) -> Iterator[GivenDocument]:
        return iter(self.documents)

    def __repr__(self) -> str:
        return f"<{len(self)} prepared documents, {self.nbytes / 1e6:.1f} MB>"
