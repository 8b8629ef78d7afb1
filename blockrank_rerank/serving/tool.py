"""One tool for assistants that speak the Model Context Protocol (MCP)."""

from __future__ import annotations

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

from blockrank_rerank import __version__
from blockrank_rerank.ranking.score_type import scored
from blockrank_rerank.reranker import BlockRankReranker
from blockrank_rerank.serving.protocols.rerank import Count
from blockrank_rerank.serving.turn import score_type_of


class RankedText(BaseModel):
    """A document in the tool's answer."""

    index: int = Field(description="Its place among the documents that were given, from 0.")
    score: float = Field(description="Probability that it is relevant; a share of the list for models without one.")
    text: str
    truncated: bool = Field(description="Whether only its beginning was read.")


class RankedTexts(BaseModel):
    """The tool's answer."""

    documents: list[RankedText] = Field(description="Best first.")
    answerable: float | None = Field(
        description="How likely, in 0–1, some of the documents that were given answers the query; null if not known."
    )


def tool_server(ranker: BlockRankReranker) -> MCPServer:
    """Make a server with the tool ``rerank``, which any transport of MCP can run.

    Parameters
    ----------
    ranker : BlockRankReranker
        Ranks every call, in threads of its own.
    """
    score_type = score_type_of(ranker)

    async def rerank(query: str, documents: list[str], top_k: Count | None = None) -> RankedTexts:
        """Sort documents by relevance to a query, best first, keep the best top_k, tell how likely any answers it."""
        # As over HTTP all come back, whatever threshold a calibration has: an empty answer would say nothing of why.
        try:
            ranking = await ranker.arank(query, documents, min_probability=0)
        except ValueError as error:
            raise ToolError(str(error)) from error  # what other errors say does not reach the assistant
        best = [
            RankedText(index=d.ranked.index, score=d.score, text=d.ranked.text, truncated=d.ranked.truncated)
            for d in scored(ranking, score_type)[:top_k]
        ]
        return RankedTexts(documents=best, answerable=ranking.answerable)

    server = MCPServer("blockrank-rerank", version=__version__)
    server.add_tool(rerank)
    return server
