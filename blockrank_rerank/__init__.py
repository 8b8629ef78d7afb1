"""Rerank retrieved documents with block-sparse in-context attention (BlockRank, arXiv 2510.05396)."""

from blockrank_rerank.config import BlockRankConfig, PromptTemplate
from blockrank_rerank.cross_encoder import BlockRankCrossEncoder
from blockrank_rerank.reranker import DEFAULT_MODEL, BlockRankReranker, RankedDocument

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_MODEL",
    "BlockRankConfig",
    "BlockRankCrossEncoder",
    "BlockRankReranker",
    "PromptTemplate",
    "RankedDocument",
    "__version__",
]
