"""One tool for assistants that speak the Model Context Protocol (MCP)."""

from __future__ import annotations

from typing import Annotated

from mcp.server import MCPServer
from pydantic import BaseModel, Field

from blockrank_rerank import __version__
from blockrank_rerank.ranking.score_type import ScoreType, scored
from blockrank_rerank.reranker import BlockRankReranker

Count = Annotated[int, Field(ge=0)]


class RankedText(BaseModel):
    """A document in the tool's answer."""

    index: int = Field(description="Its place among the documents that were given, from 0.")
    score: float = Field(description="Probability that it is relevant; a share of the list for models without one.")
    text: str


def tool_server(ranker: BlockRankReranker) -> MCPServer:
    """Make a server with the tool ``rerank``, which any transport of MCP can run.

    Parameters
    ----------
    ranker : BlockRankReranker
        Ranks every call, in threads of its own.
    """
    score_type: ScoreType = "probability" if ranker.gives_probabilities else "share"

    async def rerank(query: str, documents: list[str], top_k: Count | None = None) -> list[RankedText]:
        """Sort documents by how relevant they are to a query, best first, and keep the best top_k."""
        ranking = scored(await ranker.arank(query, documents), score_type)
        return [RankedText(index=d.ranked.index, score=d.score, text=d.ranked.text) for d in ranking[:top_k]]

    server = MCPServer("blockrank-rerank", version=__version__)
    server.add_tool(rerank)
    return server
