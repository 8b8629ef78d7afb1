"""The requests of Cohere's, Jina's and Voyage's clients, which share one form, and the answer that all of them read."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from blockrank_rerank.ranking.score_type import ScoreType
from blockrank_rerank.serving.protocols.answers import extras, rows
from blockrank_rerank.serving.turn import Ranking, RankRequest

Count = Annotated[int, Field(ge=0)]
Documents = list[str | dict[str, Any]]


class RerankRequest(BaseModel):
    """A query and documents. Every optional field may be null; fields that are not named here change nothing."""

    query: str
    documents: Documents = Field(description="Texts, or objects with `text` and optional `title`.")
    model: str | None = Field(None, description="May be any name: there is one model.")
    top_n: Count | None = Field(None, description="Return the best so many; all by default.")
    top_k: Count | None = Field(None, description="Voyage's name of `top_n`.")
    return_documents: bool | None = Field(None, description="Return the documents too.")
    max_tokens_per_doc: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Read so many tokens of each text; longer ones are cut, and marked `truncated`."
    )
    raw_scores: bool | None = Field(None, description="Return raw scores as `relevance_score`.")
    highlights: bool | None = Field(
        None, description="Return each document's sentences with the share of attention that they received."
    )

    @property
    def num_documents(self) -> int:
        """Documents to rank."""
        return len(self.documents)

    def rank_request(self) -> RankRequest:
        """What to rank; raises TypeError and ValueError for what cannot be."""
        return RankRequest(self.query, self.documents, self.max_tokens_per_doc, bool(self.highlights))

    def answer(self, ranking: Ranking, score_type: ScoreType, model: str, request_id: str) -> dict[str, Any]:
        """The answer, best document first."""
        most = self.top_k if self.top_n is None else self.top_n
        results = [
            {"index": row.ranked.index, "relevance_score": row.score}
            | ({"document": self._document(row.ranked.index)} if self.return_documents else {})
            | dict(extras(row))
            for row in rows(ranking, "raw" if self.raw_scores else score_type, most)
        ]
        return {
            "id": request_id,
            "model": model,
            "object": "list",
            "results": results,
            "data": results,  # where Voyage's clients look
            "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
            "usage": {"total_tokens": ranking.num_tokens, "prompt_tokens": ranking.num_tokens},
        }

    def _document(self, index: int) -> dict[str, Any]:
        document = self.documents[index]
        return {"text": document} if isinstance(document, str) else document
