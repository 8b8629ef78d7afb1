"""The document compressor of LangChain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import RunnableLambda
from pydantic import Field

from blockrank_rerank.adapters import HIGHLIGHTS, ExplainedDocument, PydanticOptions, check_is_list, truncation

RELEVANCE_SCORE = "relevance_score"
THE_SETTING = -1
"""As in LangChain's own rerankers."""


class BlockRankRerank(PydanticOptions, BaseDocumentCompressor):
    """Reranks documents with BlockRank, and writes each one's share of the query's attention to its metadata.

    Shares sum to 1 over the list, so that they fall as lists grow; `min_probability` is the threshold that
    does not depend on the list. Threads may share an instance.
    """

    top_n: int | None = Field(default=3, ge=0, description="Documents to return; None for all.")
    score_threshold: float | None = Field(
        default=None, allow_inf_nan=False, description="Least share of a returned document, before top_n."
    )
    min_probability: float | None = Field(
        default=None, ge=0, le=1, description="Least probability of relevance of a returned document, before top_n."
    )
    explain: bool = Field(
        default=False,
        description="Write `highlights` to the metadata: sentences by attention, with code points and weights.",
    )
    compress: bool = Field(
        default=False, description="Keep only the sentences that drew the attention; see `kept_attention`."
    )
    kept_attention: float = Field(
        default=0.8, gt=0, le=1, description="Share of a document's attention that `compress` keeps at least."
    )

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best documents, best first, as copies with `relevance_score` in their metadata."""
        step = RunnableLambda(self._compress, name=type(self).__name__)
        return step.invoke({"query": query, "documents": documents}, config={"callbacks": callbacks})

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """As `compress_documents`, in a thread."""
        step = RunnableLambda(self._compress, name=type(self).__name__)
        return await step.ainvoke({"query": query, "documents": documents}, config={"callbacks": callbacks})

    def as_runnable(self) -> RunnableLambda[dict[str, Any], list[Document]]:
        """A step for LCEL from `{"query": str, "documents": [Document]}` to ranked documents."""
        return RunnableLambda(self._compress, name=type(self).__name__)

    def rerank(
        self, documents: Sequence[str | Document | dict[str, Any]], query: str, top_n: int | None = THE_SETTING
    ) -> list[dict[str, Any]]:
        """Rank documents, best first, as `{"index", "relevance_score"}`, and `truncated` where one was cut.

        Parameters
        ----------
        documents : sequence of str, Document or dict
            Dicts with `text` and optional `title`.
        query : str
            Not empty.
        top_n : int, optional
            Instead of the setting, which counts if nothing is given; None for all.
        """
        check_is_list(documents)
        texts = [document.page_content if isinstance(document, Document) else document for document in documents]
        limits = self._limits | ({} if top_n == THE_SETTING else {"top_k": top_n})
        return [
            {"index": ranked.index, RELEVANCE_SCORE: ranked.score} | truncation(ranked)
            for ranked in self._reranker.rank(query, texts, **limits)
        ]

    @property
    def _limits(self) -> dict[str, Any]:
        return {"top_k": self.top_n, "threshold": self.score_threshold, "min_probability": self.min_probability}

    def _compress(self, inputs: dict[str, Any]) -> list[Document]:
        documents, query = _checked(inputs["documents"]), inputs["query"]
        if not (self.explain or self.compress):
            return [_with(documents[found.pop("index")], found) for found in self.rerank(documents, query)]
        explained = self._reranker.explain(query, [document.page_content for document in documents], **self._limits)
        return [self._explained(documents[e.ranked.index], e) for e in explained]

    def _explained(self, document: Document, explained: ExplainedDocument) -> Document:
        added: dict[str, Any] = {RELEVANCE_SCORE: explained.ranked.score} | truncation(explained.ranked)
        # What the model has not read may be what matters.
        shorten = self.compress and not explained.ranked.truncated
        if self.explain:
            share = self.kept_attention
            added[HIGHLIGHTS] = explained.shortened_highlights(share) if shorten else explained.highlights
        text = explained.shortened(self.kept_attention) if shorten else document.page_content
        return _with(document, added, text)


def _checked(documents: Iterable[Document]) -> list[Document]:
    checked = list(documents)
    for index, document in enumerate(checked):
        if not isinstance(document, Document):
            raise TypeError(f"documents[{index}] must be a Document, got {type(document).__name__}")
    return checked


def _with(document: Document, added: dict[str, Any], text: str | None = None) -> Document:
    """A copy with more metadata, and maybe another text."""
    update = {"metadata": {**document.metadata, **added}} | ({} if text is None else {"page_content": text})
    return document.model_copy(update=update)
