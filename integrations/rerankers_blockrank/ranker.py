"""The ranker of AnswerDotAI's rerankers."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from itertools import count
from typing import Any

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.adapters import DEFAULT_MODEL, check_is_list, truncation, with_options

try:
    from rerankers.documents import Document
    from rerankers.models import AVAILABLE_RANKERS
    from rerankers.models.ranker import BaseRanker
    from rerankers.results import RankedResults, Result
except ImportError as error:
    raise ImportError("rerankers_blockrank needs rerankers: pip install 'blockrank-rerank[rerankers]'") from error


class BlockRankRanker(BaseRanker):
    """BlockRank behind ``Reranker("default", model_type="BlockRankRanker")``.

    Parameters
    ----------
    model_name_or_path : str
        Folder, Hub id, or "default" for the model in the package.
    verbose : int
        Accepted for the interface; nothing is printed.
    **options
        Of `BlockRankReranker.from_pretrained`.
    """

    @with_options(without=("model",))
    def __init__(self, model_name_or_path: str = DEFAULT_MODEL, verbose: int = 1, **options: Any) -> None:
        self._reranker = BlockRankReranker.from_pretrained(model_name_or_path, **options)

    def rank(
        self,
        query: str,
        docs: str | Document | Sequence[str] | Sequence[Document],
        doc_ids: Sequence[str] | Sequence[int] | None = None,
        metadata: list[dict[str, Any]] | None = None,
    ) -> RankedResults:
        """All documents, best first; scores are shares of the query's attention."""
        documents = _documents([docs] if isinstance(docs, str | Document) else docs, doc_ids, metadata)
        ranking = self._reranker.rank(query, [document.text or "" for document in documents])
        for ranked in ranking:
            documents[ranked.index].metadata |= truncation(ranked)
        results = [
            Result(document=documents[ranked.index], score=ranked.score, rank=rank)
            for rank, ranked in enumerate(ranking, start=1)
        ]
        return RankedResults(results=results, query=query, has_scores=True)

    def score(self, query: str, doc: str) -> float:
        """Raw score of one document: a share of a list of one would be 1."""
        return self._reranker.rank(query, [doc])[0].raw_score


def _documents(
    docs: Sequence[str] | Sequence[Document],
    doc_ids: Sequence[str] | Sequence[int] | None,
    metadata: list[dict[str, Any]] | None,
) -> list[Document]:
    """New documents with ids and metadata; `rerankers.utils.prep_docs` would write them to the caller's."""
    check_is_list(docs)
    documents = [_document(document, number) for number, document in enumerate(docs)]
    for name, values in (("doc_ids", doc_ids), ("metadata", metadata)):
        if values is not None and len(values) != len(documents):
            raise ValueError(f"{name} must have one entry for each of {len(documents)} documents, got {len(values)}")
    taken = {document.doc_id for document in documents}
    free = (number for number in count() if number not in taken)
    for number, document in enumerate(documents):
        if doc_ids is not None:
            document.doc_id = doc_ids[number]
        elif document.doc_id is None:
            document.doc_id = next(free)
        document.metadata = dict((document.metadata if metadata is None else metadata[number]) or {})
    return documents


def _document(document: object, number: int) -> Document:
    if isinstance(document, str):
        return Document(document)
    if not isinstance(document, Document):
        raise TypeError(f"docs[{number}] must be a str or a Document of rerankers, got {type(document).__name__}")
    return copy(document)


AVAILABLE_RANKERS["BlockRankRanker"] = BlockRankRanker
