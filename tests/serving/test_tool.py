"""An assistant calls the tool."""

from __future__ import annotations

import asyncio
import sys

import pytest

pytest.importorskip("mcp", reason="needs the mcp extra")

from mcp import Client

from blockrank_rerank.cli.app import main
from blockrank_rerank.serving.tool import tool_server
from tests.serving.conftest import DOCUMENTS, QUERY


def test_an_assistant_gets_the_best_documents_and_is_told_what_it_did_wrong(ranker):
    async def calls():
        async with Client(tool_server(ranker)) as client:
            (tool,) = (await client.list_tools()).tools
            ranked = await client.call_tool("rerank", {"query": QUERY, "documents": DOCUMENTS, "top_k": 2})
            refused = await client.call_tool("rerank", {"query": "", "documents": DOCUMENTS})
            less = await client.call_tool("rerank", {"query": QUERY, "documents": DOCUMENTS, "top_k": -1})
            yes = await client.call_tool("rerank", {"query": QUERY, "documents": DOCUMENTS, "top_k": True})
            return tool, ranked.structured_content, refused, less, yes

    tool, ranked, refused, less, yes = asyncio.run(calls())
    assert tool.name == "rerank"
    assert {*tool.input_schema["properties"]} == {"query", "documents", "top_k"}
    expected = ranker.rank(QUERY, DOCUMENTS, top_k=2)
    rows = ranked["documents"]
    assert [(row["index"], row["text"]) for row in rows] == [(document.index, document.text) for document in expected]
    assert [row["score"] for row in rows] == pytest.approx([document.probability for document in expected], abs=1e-5)
    assert ranked["answerable"] == pytest.approx(expected.answerable, abs=1e-5)
    assert (refused.is_error, less.is_error, yes.is_error) == (True, True, True)
    assert "query must not be empty" in refused.content[0].text
    assert "top_k" in less.content[0].text


def test_without_the_extra_the_command_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    monkeypatch.delitem(sys.modules, "blockrank_rerank.serving.tool", raising=False)
    assert main(["mcp"]) == 3
    assert "pip install '.[mcp]'" in capsys.readouterr().err
