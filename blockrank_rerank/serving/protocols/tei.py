"""The requests of clients of text-embeddings-inference (TEI)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Discriminator, FailFast, Field, Tag

from blockrank_rerank.ranking.score_type import ScoreType
from blockrank_rerank.serving.protocols.answers import extras, rows
from blockrank_rerank.serving.protocols.rerank import RerankRequest
from blockrank_rerank.serving.turn import RankRequest, Served
from blockrank_rerank.states.stored_documents import StoredDocuments


class TeiRequest(BaseModel):
    """A query and texts. Every optional field may be null; fields that are not named here change nothing."""

    query: str
    texts: Annotated[list[str], FailFast()]
    model: str | None = Field(None, description="One of `/v1/models`; any name where that has one.")
    raw_scores: bool | None = Field(None, description="Return raw scores.")
    return_text: bool | None = Field(None, description="Return the texts too.")

    @property
    def num_documents(self) -> int:
        """Documents to rank."""
        return len(self.texts)

    def rank_request(self, stored: StoredDocuments | None) -> RankRequest:
        """What to rank; raises Refused for what cannot be."""
        return RankRequest(self.query, self.texts)

    def answer(self, served: Served, score_type: ScoreType, model: str, request_id: str) -> list[dict[str, Any]]:
        """The answer, best text first."""
        return [
            {"index": row.ranked.index, "score": row.score}
            | ({"text": self.texts[row.ranked.index]} if self.return_text else {})
            | dict(extras(row))
            for row in rows(served, "raw" if self.raw_scores else score_type)
        ]


def _form(body: Any) -> str:
    return "with documents" if isinstance(body, dict) and body.get("documents") is not None else "with texts"


TeiOrRerankRequest = Annotated[
    Annotated[TeiRequest, Tag("with texts")] | Annotated[RerankRequest, Tag("with documents")], Discriminator(_form)
]
"""Clients of several servers send Cohere's form to the same place; it has ``documents``."""
