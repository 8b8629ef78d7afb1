"""BlockRank for Haystack."""

from haystack_integrations.components.rankers.blockrank.ranker import BlockRankRanker

__all__ = ["BlockRankRanker"]
