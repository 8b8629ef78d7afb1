"""BlockRank for LlamaIndex."""

from llama_index.postprocessor.blockrank_rerank.base import BlockRankRerank

__all__ = ["BlockRankRerank"]
