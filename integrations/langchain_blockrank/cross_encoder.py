"""The cross-encoder of LangChain."""

from __future__ import annotations

import numpy as np
from langchain_core.cross_encoders import BaseCrossEncoder

import blockrank_rerank
from blockrank_rerank.adapters import PydanticOptions


class BlockRankCrossEncoder(PydanticOptions, BaseCrossEncoder):
    """BlockRank where LangChain takes a cross-encoder.

    Scores are those that `score_type` names. By default a pair's score does not depend on the other pairs.
    """

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Scores of (query, document) pairs, in their order."""
        encoder = blockrank_rerank.BlockRankCrossEncoder(self._reranker, score_type=self.score_type)
        return [float(score) for score in np.atleast_1d(encoder.predict(text_pairs))]
