"""The node postprocessor of LlamaIndex."""

from __future__ import annotations

from typing import Any

from typing_extensions import Self

from blockrank_rerank.adapters import (
    HIGHLIGHTS,
    PASSAGE,
    ContextSettings,
    ExplainedDocument,
    ScoredDocument,
    ScoredRanking,
    Scoring,
    answerability,
    check_query,
    fit_top_n,
    in_executor,
    install_line,
    metadata_of,
    metadata_of_cut,
)

try:
    from llama_index.core.bridge.pydantic import Field, model_validator
    from llama_index.core.callbacks import CBEventType, EventPayload
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle

    from blockrank_rerank.adapters import PydanticOptions
except ImportError as error:
    raise ImportError(
        f"BlockRankRerank for LlamaIndex needs llama-index-core; {install_line('llama-index')}"
    ) from error

RETRIEVAL_SCORE = "retrieval_score"
TOP_N = 5

dispatcher = get_dispatcher(__name__)


class BlockRankRerank(PydanticOptions, BaseNodePostprocessor):
    """Reranks retrieved nodes with BlockRank; the node's new score is what `score_type` says.

    By default that is the probability of relevance, or the raw score of a model that gives no probability: neither
    depends on the list. Each node's metadata has its `probability`, the `passage` that won where it was split, and
    `answerable`, how likely some node of the list answers the query. Instances with the same settings share one loaded
    model, and threads may share an instance.
    """

    top_n: int | None = Field(
        default=TOP_N, ge=0, description="Nodes to return; None for all, which is the default with `max_tokens`."
    )
    score_threshold: float | None = Field(
        default=None, allow_inf_nan=False, description="Least score of a returned node, before top_n."
    )
    min_probability: float | None = Field(
        default=None, ge=0, le=1, description="Least probability of relevance of a returned node, before top_n."
    )
    metadata_mode: MetadataMode = Field(default=MetadataMode.EMBED, description="Which metadata the model reads.")
    keep_retrieval_score: bool = Field(default=False, description="Keep the old score in the metadata.")
    explain: bool = Field(
        default=False,
        description="Write `highlights` to the metadata: sentences by attention, with code points and weights.",
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Cut the nodes to those of their sentences that a prompt of so many tokens has room for.",
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

    @model_validator(mode="before")
    @classmethod
    def _without_class_name(cls, settings: Any) -> Any:
        """Dumps name their class."""
        if isinstance(settings, dict) and settings.get("class_name") == cls.class_name():
            return {name: value for name, value in settings.items() if name != "class_name"}
        return settings

    @classmethod
    def class_name(cls) -> str:
        """Name in serialised form."""
        return "BlockRankRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("BlockRankRerank needs the query: pass query_str or query_bundle")
        check_query(query_bundle.query_str)
        nodes = list(nodes)  # an iterator would be empty after the first event
        if not nodes:
            return []
        top_n = len(nodes) if self.top_n is None else self.top_n
        dispatcher.event(
            ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=top_n, model_name=self._reranker.model)
        )
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self._reranker.model,
            EventPayload.QUERY_STR: query_bundle.query_str,
            EventPayload.TOP_K: top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            ranked = self._ranked(nodes, query_bundle.query_str)
            event.on_end(payload={EventPayload.NODES: ranked})
        dispatcher.event(ReRankEndEvent(nodes=ranked))
        return ranked

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return await in_executor(self._postprocess_nodes, nodes, query_bundle)

    def _cutting(self) -> ContextSettings | None:
        return ContextSettings.of_adapter(self.max_tokens, self.tokenizer, self.diversity, self.explain)

    def _ranked(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        texts = [node.node.get_content(metadata_mode=self.metadata_mode) for node in nodes]
        scoring = Scoring(self.score_type, self.top_n, self.score_threshold, self.min_probability)
        if (settings := self._cutting()) is not None:
            return self._cut(nodes, texts, query, scoring, settings)
        ranking = scoring.rank(self._reranker, query, texts, self.explain)
        return [self._scored(nodes[document.ranked.index], document, ranking) for document in ranking]

    def _cut(
        self, nodes: list[NodeWithScore], texts: list[str], query: str, scoring: Scoring, settings: ContextSettings
    ) -> list[NodeWithScore]:
        """Nodes whose texts are what is left of them; metadata that the model read around a text are not cut."""
        places = [_own_text(node.node, text) for node, text in zip(nodes, texts, strict=True)]
        # Of a node whose own text is not found in what was read, all of that may be kept.
        within = {index: place[:2] for index, place in enumerate(places) if place[0] < place[1]}
        context, found = scoring.context(self._reranker, query, texts, settings, within)
        cut = []
        for document in found:
            index = document.ranked.index
            start, _, before = places[index]
            added = metadata_of_cut(document.ranked, context, before - start)
            one = self._with_score(nodes[index], document, added | answerability(context.ranking.answerable))
            one.node.set_content(context.texts[index])
            cut.append(one)
        return cut

    def _scored(self, retrieved: NodeWithScore, document: ScoredDocument, ranking: ScoredRanking) -> NodeWithScore:
        explained = ranking.explained.get(document.ranked.index)
        highlights = {} if explained is None else {HIGHLIGHTS: _highlights(retrieved.node, explained)}
        added = highlights | _metadata(retrieved.node, document) | answerability(ranking.answerable)
        return self._with_score(retrieved, document, added)

    def _with_score(self, retrieved: NodeWithScore, document: ScoredDocument, added: dict[str, Any]) -> NodeWithScore:
        if self.keep_retrieval_score:
            added = {**added, RETRIEVAL_SCORE: None if retrieved.score is None else float(retrieved.score)}
        return NodeWithScore(node=_with(retrieved.node, added), score=document.score)


def _with(node: BaseNode, added: dict[str, Any]) -> BaseNode:
    """The node, or a copy with more metadata."""
    if not added:
        return node
    node = node.model_copy()
    node.metadata = {**node.metadata, **added}
    # Neither the next embedding model nor the LLM should read these as text.
    node.excluded_embed_metadata_keys = [*dict.fromkeys([*node.excluded_embed_metadata_keys, *added])]
    node.excluded_llm_metadata_keys = [*dict.fromkeys([*node.excluded_llm_metadata_keys, *added])]
    return node


def _own_text(node: BaseNode, read: str) -> tuple[int, int, int]:
    """Start and end of the node's own text in what the model read, and how many blanks before it were not read.

    It stands before or after the metadata; start and end are equal where it is not found.
    """
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    # LlamaIndex strips what it puts together.
    stripped, before = text.strip(), len(text) - len(text.lstrip())
    first = str(getattr(node, "text_template", "")).startswith("{content}")
    start = read.find(stripped) if first else read.rfind(stripped)
    return (0, 0, 0) if start < 0 else (start, start + len(stripped), before)


def _metadata(node: BaseNode, document: ScoredDocument) -> dict[str, Any]:
    """Probability, passage and truncation of a node; the passage is counted in its own text."""
    start, end, before = _own_text(node, document.ranked.text)
    added = metadata_of(document.ranked, start, end)
    if PASSAGE in added:
        added[PASSAGE] = [place + before for place in added[PASSAGE]]
    return added


def _highlights(node: BaseNode, explained: ExplainedDocument) -> list[dict[str, Any]]:
    """Highlights of the node's own text, counted in it."""
    start, end, before = _own_text(node, explained.ranked.text)
    highlights = explained.within(start, end).highlights
    return [{**span, "start": span["start"] + before, "end": span["end"] + before} for span in highlights]
