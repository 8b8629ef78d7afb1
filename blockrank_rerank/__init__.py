"""Rerank retrieved documents with block-sparse in-context attention (BlockRank, arXiv 2510.05396)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockrank_rerank.config import BlockRankConfig, PromptTemplate
    from blockrank_rerank.cross_encoder import BlockRankCrossEncoder
    from blockrank_rerank.prepared_documents import PreparedDocuments
    from blockrank_rerank.reranker import DEFAULT_MODEL, BlockRankReranker
    from blockrank_rerank.results import RankedDocument

__version__ = "0.1.0"

_HOMES = {
    "DEFAULT_MODEL": "reranker",
    "BlockRankConfig": "config",
    "BlockRankCrossEncoder": "cross_encoder",
    "BlockRankReranker": "reranker",
    "PreparedDocuments": "prepared_documents",
    "PromptTemplate": "config",
    "RankedDocument": "results",
}

__all__ = [
    "DEFAULT_MODEL",
    "BlockRankConfig",
    "BlockRankCrossEncoder",
    "BlockRankReranker",
    "PreparedDocuments",
    "PromptTemplate",
    "RankedDocument",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # `blockrank --help` and file errors should not wait a second for torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
