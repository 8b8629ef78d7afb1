"""BlockRank for Haystack."""

from blockrank_rerank.adapters import install_line

try:
    import haystack  # noqa: F401
except ImportError as error:
    raise ImportError(f"BlockRankRanker needs haystack-ai; {install_line('haystack')}") from error

from haystack_integrations.components.rankers.blockrank.context import BlockRankContext
from haystack_integrations.components.rankers.blockrank.ranker import BlockRankRanker

__all__ = ["BlockRankContext", "BlockRankRanker"]
