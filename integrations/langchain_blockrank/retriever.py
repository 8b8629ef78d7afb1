"""The retriever of LangChain."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field

from blockrank_rerank.adapters import PydanticOptions, ScoredDocument, Scoring, check_store, in_executor, metadata_of
from langchain_blockrank.rerank import RELEVANCE_SCORE


class BlockRankRetriever(PydanticOptions, BaseRetriever):
    """Ranks all documents of a prepared corpus with BlockRank; a document's score is of the kind `score_type`.

    The corpus is what `blockrank prepare` has made of it, in the folder `store`: ids, titles and texts come from there.
    The metadata have the score as `relevance_score`, the `title` and `probability`, where there are any, and the
    `passage` that won where a document was split. The first query reads the store, and keeps its keys in memory;
    instances with the same model share that.
    """

    k: int | None = Field(default=10, ge=0, description="Documents to return; None for all.")
    score_threshold: float | None = Field(
        default=None, allow_inf_nan=False, description="Least score of a returned document."
    )
    min_probability: float | None = Field(
        default=None, ge=0, le=1, description="Least probability of relevance of a returned document."
    )
    approximate: bool = Field(default=False, description="Faster, and may miss some of the best documents.")

    def model_post_init(self, context: Any) -> None:
        """Check that there is a store."""
        check_store(self.store)
        super().model_post_init(context)

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return self._found(query)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        return await in_executor(self._found, query)

    def _found(self, query: str) -> list[Document]:
        scoring = Scoring(self.score_type, self.k, self.score_threshold, self.min_probability)
        return [_document(found) for found in scoring.search(self._reranker, self.store, query, self.approximate)]


def _document(found: ScoredDocument) -> Document:
    ranked = found.ranked
    title = {"title": ranked.document.title} if ranked.document.title else {}
    metadata = title | {RELEVANCE_SCORE: found.score} | metadata_of(ranked)
    return Document(id=ranked.id, page_content=ranked.text, metadata=metadata)
