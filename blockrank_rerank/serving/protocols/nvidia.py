"""The requests of clients of NVIDIA's rerankers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, FailFast, Field

from blockrank_rerank.ranking.results import answerability
from blockrank_rerank.ranking.score_type import ScoreType
from blockrank_rerank.serving.protocols.answers import logit, rows
from blockrank_rerank.serving.turn import RankRequest, Served
from blockrank_rerank.states.stored_documents import StoredDocuments


class Text(BaseModel):
    """A text in an object."""

    text: str


class NvidiaRequest(BaseModel):
    """A query and passages. Fields that are not named here change nothing."""

    query: Text
    passages: Annotated[list[Text], FailFast()]
    model: str | None = Field(None, description="One of `/v1/models`; any name where that has one.")

    @property
    def num_documents(self) -> int:
        """Documents to rank."""
        return len(self.passages)

    def rank_request(self, stored: StoredDocuments | None) -> RankRequest:
        """What to rank; raises Refused for what cannot be."""
        return RankRequest(self.query.text, [passage.text for passage in self.passages])

    def answer(self, served: Served, score_type: ScoreType, model: str, request_id: str) -> dict[str, Any]:
        """The answer, best passage first: log-odds of probabilities, or raw scores of a model without."""
        if score_type == "probability":
            logits = [(row.ranked.index, logit(row.score)) for row in rows(served, score_type)]
        else:
            logits = [(row.ranked.index, row.score) for row in rows(served, "raw")]
        rankings = [{"index": index, "logit": score} for index, score in logits]
        return {"rankings": rankings, **answerability(served.ranking.answerable)}
