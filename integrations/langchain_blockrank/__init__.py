"""BlockRank for LangChain."""

from blockrank_rerank.adapters import install_line

try:
    import langchain_core  # noqa: F401
except ImportError as error:
    raise ImportError(f"langchain_blockrank needs langchain-core; {install_line('langchain')}") from error

from langchain_blockrank.cross_encoder import BlockRankCrossEncoder
from langchain_blockrank.rerank import BlockRankRerank
from langchain_blockrank.retriever import BlockRankRetriever

__all__ = ["BlockRankCrossEncoder", "BlockRankRerank", "BlockRankRetriever"]
