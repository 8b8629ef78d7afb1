"""BlockRank for LlamaIndex."""

from llama_index.retrievers.blockrank_rerank.base import BlockRankRetriever

__all__ = ["BlockRankRetriever"]
