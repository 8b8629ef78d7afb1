"""The retriever of LlamaIndex."""

from __future__ import annotations

from typing import Any

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.adapters import (
    DEFAULT_MODEL,
    ScoredDocument,
    ScoreType,
    Scoring,
    UserPath,
    check_options,
    check_store,
    in_executor,
    install_line,
    metadata_of,
    with_options,
)

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
except ImportError as error:
    raise ImportError(
        f"BlockRankRetriever for LlamaIndex needs llama-index-core; {install_line('llama-index')}"
    ) from error

TITLE = "title"


class BlockRankRetriever(BaseRetriever):
    """Ranks all documents of a prepared corpus with BlockRank; a node's score is what `score_type` says.

    The corpus is what `blockrank prepare` has made of it: ids, titles and texts come from there. Each node's metadata
    has its `title` and `probability`, where there are any, and the `passage` that won where it was split. The first
    query reads the store, and keeps its keys in memory; instances with the same model share that.

    Parameters
    ----------
    store : str
        Folder made by `blockrank prepare` with the same model.
    similarity_top_k : int, optional
        Nodes to return; None for all.
    score_threshold, min_probability : float, optional
        Least score, and least probability of relevance, of a returned node.
    score_type : str, optional
        `probability`, `raw` or `share` (of the store); probability where the model gives one, else raw, if not given.
    approximate : bool
        Faster, and may miss some of the best documents.
    callback_manager : CallbackManager, optional
        As in every retriever.
    model : str
        Folder, Hub id, or "default" for the model in the package.
    **options
        The others of `BlockRankReranker.from_pretrained`.
    """

    @with_options()
    def __init__(
        self,
        store: UserPath,
        similarity_top_k: int | None = 10,
        score_threshold: float | None = None,
        min_probability: float | None = None,
        score_type: ScoreType | None = None,
        approximate: bool = False,
        callback_manager: CallbackManager | None = None,
        model: UserPath = DEFAULT_MODEL,
        **options: Any,
    ) -> None:
        check_store(store)
        check_options({"model": model, **options})
        self._store, self._approximate = store, approximate
        self._scoring = Scoring(score_type, similarity_top_k, score_threshold, min_probability)
        self._reranker = BlockRankReranker.from_pretrained(model, **options)
        super().__init__(callback_manager)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = self._scoring.search(self._reranker, self._store, query_bundle.query_str, self._approximate)
        return [NodeWithScore(node=_node(document), score=document.score) for document in found]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await in_executor(self._retrieve, query_bundle)


def _node(found: ScoredDocument) -> TextNode:
    ranked = found.ranked
    added = metadata_of(ranked)
    title = {TITLE: ranked.document.title} if ranked.document.title else {}
    node = TextNode(
        text=ranked.text,
        metadata=title | added,
        # Neither the next embedding model nor the LLM should read these as text.
        excluded_embed_metadata_keys=[*added],
        excluded_llm_metadata_keys=[*added],
    )
    return node if ranked.id is None else node.model_copy(update={"id_": ranked.id})
