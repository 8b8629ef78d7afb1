"""The answers with which a language model names documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from blockrank_rerank.text.prompt import EncodedRequest, PromptEncoder, TokenisedBlocks
from blockrank_rerank.text.tokenizer import Piece

ANSWER_TOKENS = 16
"""Positions that are kept for an answer after the query: ids of ten digits and what closes them, in any tokenizer."""


class AnsweringPromptEncoder(PromptEncoder):
    """A prompt encoder whose requests have an answer for each document, by its number in the list."""

    def encode(self, query: str, documents: Sequence[str], tokenised: TokenisedBlocks | None = None) -> EncodedRequest:
        """Encode one request with its answers; see :meth:`PromptEncoder.encode`."""
        request = super().encode(query, documents, tokenised)
        return replace(request, answers=self._answers(len(documents)))

    @property
    def longest_query(self) -> int:
        """Most tokens of a query block, template included."""
        return super().longest_query - ANSWER_TOKENS

    def _answers(self, count: int) -> list[list[int]]:
        """``0]``, ``1]``, …: the bracket ends the id, as in the answers of training, and tells 1 from 12."""
        blocks = self._tokenizer.encode((Piece(f"{number}]", is_data=False),) for number in range(count))
        return [block.ids for block in blocks]
