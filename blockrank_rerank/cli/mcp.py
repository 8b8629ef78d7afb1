"""``blockrank mcp``: a tool for assistants."""

from __future__ import annotations

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.ranker import load_ranker
from blockrank_rerank.errors import install_line


@opt.with_model_options()
def mcp(*, model_options: opt.ModelOptions) -> None:
    """Give assistants that speak the Model Context Protocol (MCP) a tool: rerank(query, documents, top_k).

    It talks over standard input and output: an assistant starts the command itself.

    For example, in an assistant's settings: "command": "blockrank", "args": ["mcp", "--cache", "1GB"]
    """
    try:
        from blockrank_rerank.serving.tool import tool_server
    except ImportError as error:
        raise ImportError(f"blockrank mcp needs the extra mcp ({error}); {install_line('mcp')}") from error
    tool_server(load_ranker(model_options)).run()
