"""BlockRank for LangChain."""

try:
    import langchain_core  # noqa: F401
except ImportError as error:
    raise ImportError("langchain_blockrank needs langchain-core: pip install 'blockrank-rerank[langchain]'") from error

from langchain_blockrank.cross_encoder import BlockRankCrossEncoder
from langchain_blockrank.rerank import BlockRankRerank

__all__ = ["BlockRankCrossEncoder", "BlockRankRerank"]
