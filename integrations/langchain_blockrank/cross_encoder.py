"""The cross-encoder of LangChain."""

from __future__ import annotations

from langchain_core.cross_encoders import BaseCrossEncoder

import blockrank_rerank
from blockrank_rerank.adapters import PydanticOptions


class BlockRankCrossEncoder(PydanticOptions, BaseCrossEncoder):
    """BlockRank where LangChain takes a cross-encoder.

    Scores are shares of a list: consecutive pairs with the same query form one.
    """

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Scores of (query, document) pairs, in their order."""
        scores = blockrank_rerank.BlockRankCrossEncoder(self._reranker).predict(text_pairs)
        return [float(score) for score in scores]
