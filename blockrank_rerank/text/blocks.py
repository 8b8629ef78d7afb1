"""The blocks in which documents go through a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockrank_rerank.text.document import document_text, part_of
from blockrank_rerank.text.prompt import PromptEncoder, TokenisedBlocks

if TYPE_CHECKING:
    from blockrank_rerank.text.document import Document


@dataclass(frozen=True)
class Blocks:
    """The blocks in which documents go through the model: one each, or several passages of a long one.

    Attributes
    ----------
    texts : list of str
        Of the blocks, with titles.
    owners : list of int
        The document of each block, ascending.
    bounds : list of (int, int)
        Code points of the document's text that each block holds.
    """

    texts: list[str]
    owners: list[int]
    bounds: list[tuple[int, int]]

    @classmethod
    def of(
        cls,
        query: str,
        documents: Sequence[Document],
        texts: Sequence[str],
        prompt: PromptEncoder,
        fits: Callable[[str], bool] = lambda text: False,
        first: int = 0,
    ) -> tuple[Blocks, TokenisedBlocks]:
        """Cut documents as the prompt's settings say, and return what was tokenised for it too.

        ``fits`` and ``first`` are those of the prompt's ``passages``.
        """
        cut, tokenised = prompt.passages(query, documents, texts, fits, first)
        blocks = cls([], [], [])
        for index, (document, text, bounds) in enumerate(zip(documents, texts, cut, strict=True)):
            for bound in bounds:
                blocks.texts.append(text if len(bounds) == 1 else document_text(part_of(document, bound), index))
                blocks.owners.append(index)
                blocks.bounds.append(bound)
        return blocks, tokenised

    def select(self, documents: Sequence[int]) -> tuple[Blocks, list[int]]:
        """Take the blocks of some of the documents, in their order, and say where each was."""
        blocks_of: dict[int, list[int]] = {}
        for block, owner in enumerate(self.owners):
            blocks_of.setdefault(owner, []).append(block)
        chosen = [block for document in documents for block in blocks_of[document]]
        owners = [new for new, document in enumerate(documents) for _ in blocks_of[document]]
        return Blocks([self.texts[b] for b in chosen], owners, [self.bounds[b] for b in chosen]), chosen

    def best(self, raw_scores: Sequence[float]) -> list[int]:
        """Choose for every document its block with the highest raw score; the first one of equals."""
        best: dict[int, int] = {}
        for block, owner in enumerate(self.owners):
            if owner not in best or raw_scores[block] > raw_scores[best[owner]]:
                best[owner] = block
        return list(best.values())

    def passage(self, block: int) -> tuple[int, int] | None:
        """Return the bounds of a block that is one of several of its document; nothing for a whole one."""
        # Blocks of one document are neighbours.
        neighbours = self.owners[max(block - 1, 0) : block] + self.owners[block + 1 : block + 2]
        return self.bounds[block] if self.owners[block] in neighbours else None


def first_copies(documents: Iterable[Sequence[int]]) -> list[int]:
    """Find for every document, in tokens, the index of the first identical one.

    Copies take its scores, so that they tie: what rounding makes of a value depends on its place in a batch.
    """
    first: dict[tuple[int, ...], int] = {}
    return [first.setdefault(tuple(ids), index) for index, ids in enumerate(documents)]


def with_copies_tied(raw_scores: Sequence[float], documents: Iterable[Sequence[int]]) -> list[float]:
    """Return raw scores of documents, in tokens, in which copies have that of the first one."""
    return [raw_scores[copy] for copy in first_copies(documents)]
