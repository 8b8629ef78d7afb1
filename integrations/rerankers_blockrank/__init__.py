"""BlockRank for AnswerDotAI's rerankers; importing this registers it."""

from rerankers_blockrank.ranker import BlockRankRanker

__all__ = ["BlockRankRanker"]
