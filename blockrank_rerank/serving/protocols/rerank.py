"""The requests of Cohere's, Jina's and Voyage's clients, which share one form, and the answer that all of them read."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, FailFast, Field, PrivateAttr
from pydantic_core import PydanticCustomError

from blockrank_rerank.errors import UnknownIdsError, shown_ids
from blockrank_rerank.ranking.results import answerability
from blockrank_rerank.ranking.score_type import ScoreType
from blockrank_rerank.serving.protocols.answers import extras, rows
from blockrank_rerank.serving.turn import RankRequest, Refused, Served
from blockrank_rerank.states.stored_documents import StoredDocuments
from blockrank_rerank.text.document import ID_NAMES, document_id


def _no_bool(value: Any) -> Any:
    """Refuse what Python takes for 0 and 1: a client whose ``top_n`` is false does not want an empty answer."""
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Count = Annotated[Whole, Field(ge=0)]
Documents = list[str | dict[str, Any]]
GivenDocuments = Annotated[Documents, FailFast()]
"""One fault is enough: a body may hold a million, and each would be copied."""


class RerankRequest(BaseModel):
    """A query and documents. Every optional field may be null; fields that are not named here change nothing."""

    query: str
    documents: GivenDocuments = Field(
        description="Texts; objects with `text` and optional `title`; or `id` alone, of documents in the store."
    )
    model: str | None = Field(None, description="One of `/v1/models`; any name where that has one.")
    top_n: Count | None = Field(None, description="Return the best so many; all by default.")
    top_k: Count | None = Field(None, description="Voyage's name of `top_n`.")
    return_documents: bool | None = Field(None, description="Return the documents too.")
    max_tokens_per_doc: Annotated[Whole, Field(ge=1)] | None = Field(
        None, description="Read so many tokens of each text; longer ones are cut, and marked `truncated`."
    )
    raw_scores: bool | None = Field(None, description="Return raw scores as `relevance_score`.")
    highlights: bool | None = Field(
        None, description="Return each document's sentences with the share of attention that they received."
    )

    _found: Documents = PrivateAttr(default_factory=list)

    @property
    def num_documents(self) -> int:
        """Documents to rank."""
        return len(self.documents)

    def rank_request(self, stored: StoredDocuments | None) -> RankRequest:
        """What to rank; raises Refused for what cannot be."""
        if self.return_documents:
            _check_returnable(self.documents)
        self._found = _with_texts(self.documents, stored)
        return RankRequest(self.query, self._found, self.max_tokens_per_doc, bool(self.highlights))

    def answer(self, served: Served, score_type: ScoreType, model: str, request_id: str) -> dict[str, Any]:
        """The answer, best document first."""
        most = self.top_k if self.top_n is None else self.top_n
        results = [
            {"index": row.ranked.index, "relevance_score": row.score}
            | self._identifier(row.ranked.index)
            | ({"document": self._document(row.ranked.index)} if self.return_documents else {})
            | dict(extras(row))
            for row in rows(served, "raw" if self.raw_scores else score_type, most)
        ]
        return {
            "id": request_id,
            "model": model,
            "object": "list",
            "results": results,
            "data": results,  # where Voyage's clients look
            **answerability(served.ranking.answerable),
            "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
            "usage": {"total_tokens": served.num_tokens, "prompt_tokens": served.num_tokens},
        }

    def _identifier(self, index: int) -> dict[str, Any]:
        name = document_id(self._found[index])
        return {} if name is None else {"id": name}

    def _document(self, index: int) -> dict[str, Any]:
        document = self._found[index]
        return {"text": document} if isinstance(document, str) else document


def _check_returnable(documents: Documents) -> None:
    """Refuse what was read as JSON and cannot be written as such, as infinity, which ``1e999`` is."""
    for index, document in enumerate(documents):
        try:
            json.dumps(document, allow_nan=False)
        except ValueError as error:
            raise Refused(f"documents[{index}] cannot be returned: it holds a number that is not finite") from error


def _with_texts(documents: Documents, stored: StoredDocuments | None) -> Documents:
    """The documents, with those of the store in place of ids alone; raises Refused for ids it does not have."""
    alone = {index: name for index, document in enumerate(documents) for name in _id_alone(document)}
    if not alone:
        return documents
    if stored is None:
        first = next(iter(alone))
        raise Refused(
            f"documents[{first}] is an id alone, and this server has no store: start it with --store, or send texts"
        )
    names = []
    for index, name in alone.items():
        if (plain := document_id(documents[index])) is None:
            raise Refused(f"documents[{index}].id must be a str or a whole number, got {type(name).__name__}")
        names.append(plain)
    try:
        found = stored.get(names)
    except UnknownIdsError as error:
        # Without the folder, which is no business of clients.
        raise Refused(
            f"documents: {len(error.ids)} of {len(alone)} ids are not in the store: {shown_ids(error.ids)}"
        ) from error
    whole = list(documents)
    for (index, name), document in zip(alone.items(), found, strict=True):
        title = {"title": document.title} if document.title else {}
        whole[index] = {"id": name, **title, "text": document.text}
    return whole


def _id_alone(document: str | dict[str, Any]) -> list[Any]:
    """The id of a document that has nothing else: fields that are null count as missing."""
    given = {} if isinstance(document, str) else {name: it for name, it in document.items() if it is not None}
    return [*given.values()] if len(given) == 1 and given.keys() <= {*ID_NAMES} else []
