"""BlockRank for Haystack."""

from haystack_integrations.components.retrievers.blockrank.retriever import BlockRankRetriever

__all__ = ["BlockRankRetriever"]
