"""The document compressor of LangChain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import RunnableLambda
from pydantic import Field, model_validator
from typing_extensions import Self

from blockrank_rerank.adapters import (
    HIGHLIGHTS,
    Context,
    ContextSettings,
    PydanticOptions,
    ScoredDocument,
    ScoredRanking,
    Scoring,
    answerability,
    check_is_list,
    fit_top_n,
    in_executor,
    metadata_of,
    metadata_of_cut,
    truncation,
)

RELEVANCE_SCORE = "relevance_score"
TOP_N = 3
THE_SETTING = -1
"""As in LangChain's own rerankers."""


class BlockRankRerank(PydanticOptions, BaseDocumentCompressor):
    """Reranks documents with BlockRank, and writes each one's score to its metadata, of the kind `score_type`.

    By default that is the probability of relevance, or the raw score of a model that gives no probability: neither
    depends on the list. The metadata also have the `probability`, the `passage` that won where a document was split,
    and `answerable`, how likely some document of the list answers the query. Threads may share an instance.
    """

    top_n: int | None = Field(
        default=TOP_N, ge=0, description="Documents to return; None for all, which is the default with `max_tokens`."
    )
    score_threshold: float | None = Field(
        default=None, allow_inf_nan=False, description="Least score of a returned document, before top_n."
    )
    min_probability: float | None = Field(
        default=None, ge=0, le=1, description="Least probability of relevance of a returned document, before top_n."
    )
    explain: bool = Field(
        default=False,
        description="Write `highlights` to the metadata: sentences by attention, with code points and weights.",
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Cut the documents to those of their sentences that a prompt of so many tokens has room for.",
    )
    tokenizer: Any = Field(
        default=None,
        exclude=True,
        description="Counts `max_tokens`: of Hugging Face or tiktoken, or a callable; the model's own if not given.",
    )
    diversity: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="With `max_tokens`: what a sentence loses for being like one that was taken before.",
    )

    @model_validator(mode="after")
    def _check_cutting(self) -> Self:
        self._cutting()
        fit_top_n(self, TOP_N)
        return self

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best documents, best first, as copies with `relevance_score` in their metadata."""
        return self.as_runnable().invoke({"query": query, "documents": documents}, config={"callbacks": callbacks})

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """As `compress_documents`, in a thread that stops when nobody waits for it any more."""
        return await self.as_runnable().ainvoke(
            {"query": query, "documents": documents}, config={"callbacks": callbacks}
        )

    def as_runnable(self) -> RunnableLambda[dict[str, Any], list[Document]]:
        """A step for LCEL from `{"query": str, "documents": [Document]}` to ranked documents."""
        return RunnableLambda(self._compress, self._acompress, name=type(self).__name__)

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
        scoring = self._scoring(self.top_n if top_n == THE_SETTING else top_n)
        return [
            {"index": document.ranked.index, RELEVANCE_SCORE: document.score} | truncation(document.ranked)
            for document in scoring.rank(self._reranker, query, texts)
        ]

    def _scoring(self, top_n: int | None) -> Scoring:
        return Scoring(self.score_type, top_n, self.score_threshold, self.min_probability)

    def _cutting(self) -> ContextSettings | None:
        return ContextSettings.of_adapter(self.max_tokens, self.tokenizer, self.diversity, self.explain)

    def _compress(self, inputs: dict[str, Any]) -> list[Document]:
        documents, query = _checked(inputs["documents"]), inputs["query"]
        texts = [document.page_content for document in documents]
        scoring = self._scoring(self.top_n)
        if (settings := self._cutting()) is not None:
            context, found = scoring.context(self._reranker, query, texts, settings)
            return [_cut(documents[one.ranked.index], one, context) for one in found]
        found = scoring.rank(self._reranker, query, texts, self.explain)
        return [_with(documents[one.ranked.index], _metadata(one, found)) for one in found]

    async def _acompress(self, inputs: dict[str, Any]) -> list[Document]:
        return await in_executor(self._compress, inputs)


def _metadata(found: ScoredDocument, ranking: ScoredRanking) -> dict[str, Any]:
    explained = ranking.explained.get(found.ranked.index)
    highlights = {} if explained is None else {HIGHLIGHTS: explained.highlights}
    of_document = metadata_of(found.ranked) | highlights
    return {RELEVANCE_SCORE: found.score} | of_document | answerability(ranking.answerable)


def _cut(document: Document, found: ScoredDocument, context: Context) -> Document:
    of_document = metadata_of_cut(found.ranked, context)
    added = {RELEVANCE_SCORE: found.score} | of_document | answerability(context.ranking.answerable)
    return _with(document, added, context.texts[found.ranked.index])


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
