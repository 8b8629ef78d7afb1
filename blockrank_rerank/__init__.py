"""Rerank retrieved documents with block-sparse in-context attention (BlockRank, arXiv 2510.05396)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockrank_rerank.config import BlockRankConfig, PromptTemplate
    from blockrank_rerank.cross_encoder import BlockRankCrossEncoder
    from blockrank_rerank.engine.store_preparation import Preparation
    from blockrank_rerank.errors import DataError, DocumentError, RequestError, UnknownIdsError
    from blockrank_rerank.model.names import DEFAULT_MODEL
    from blockrank_rerank.ranking.context.context import Context
    from blockrank_rerank.ranking.context.piece import DroppedPiece, Piece
    from blockrank_rerank.ranking.explanation import ExplainedDocument, Explanation, Span
    from blockrank_rerank.ranking.results import RankedDocument, Ranking
    from blockrank_rerank.reranker import BlockRankReranker
    from blockrank_rerank.states.cache import CacheInfo
    from blockrank_rerank.states.document_files import StoredDocument
    from blockrank_rerank.states.prepared import PreparedDocuments
    from blockrank_rerank.states.stored_documents import StoredDocuments

__version__ = "0.1.0"

_HOMES = {
    "DEFAULT_MODEL": "model.names",
    "BlockRankConfig": "config",
    "BlockRankCrossEncoder": "cross_encoder",
    "BlockRankReranker": "reranker",
    "CacheInfo": "states.cache",
    "Context": "ranking.context.context",
    "DataError": "errors",
    "DocumentError": "errors",
    "DroppedPiece": "ranking.context.piece",
    "ExplainedDocument": "ranking.explanation",
    "Explanation": "ranking.explanation",
    "Piece": "ranking.context.piece",
    "PreparedDocuments": "states.prepared",
    "Preparation": "engine.store_preparation",
    "PromptTemplate": "config",
    "RankedDocument": "ranking.results",
    "Ranking": "ranking.results",
    "RequestError": "errors",
    "Span": "ranking.explanation",
    "StoredDocument": "states.document_files",
    "StoredDocuments": "states.stored_documents",
    "UnknownIdsError": "errors",
}

__all__ = [
    "DEFAULT_MODEL",
    "BlockRankConfig",
    "BlockRankCrossEncoder",
    "BlockRankReranker",
    "CacheInfo",
    "Context",
    "DataError",
    "DocumentError",
    "DroppedPiece",
    "ExplainedDocument",
    "Explanation",
    "Piece",
    "Preparation",
    "PreparedDocuments",
    "PromptTemplate",
    "RankedDocument",
    "Ranking",
    "RequestError",
    "Span",
    "StoredDocument",
    "StoredDocuments",
    "UnknownIdsError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # `blockrank --help` and file errors should not wait a second for torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
