"""The retriever component of Haystack."""

# Without `from __future__ import annotations`: haystack-ai 2.20 does not connect inputs whose types are strings.
from typing import Any

from blockrank_rerank.adapters import (
    DEFAULT_MODEL,
    ScoredDocument,
    ScoreType,
    UserPath,
    check_store,
    in_executor,
    install_line,
    metadata_of,
    with_options,
)

try:
    from haystack import Document, component, default_to_dict
    from haystack.utils import ComponentDevice, Secret
    from haystack_integrations.components.rankers.blockrank.described_model import DescribedModel
except ImportError as error:
    raise ImportError(f"BlockRankRetriever needs haystack-ai; {install_line('haystack')}") from error


@component
class BlockRankRetriever(DescribedModel):
    """Ranks all documents of a prepared corpus with BlockRank; a document's score is what `score_type` says.

    The corpus is what `blockrank prepare` has made of it: ids, titles and texts come from there. Each document's meta
    has its `title` and `probability`, where there are any, and the `passage` that won where it was split. The first
    run reads the store, and keeps its keys in memory.

    Parameters
    ----------
    store : str
        Folder made by `blockrank prepare` with the same model.
    model : str
        Folder, Hub id, or "default" for the model in the package.
    device : ComponentDevice, optional
        CUDA where there is one, if not given; a saved pipeline does not pin it then.
    token : Secret, optional
        For private and gated models on the Hub.
    top_k : int
        Documents to return, at least 1.
    score_threshold : float, optional
        Least score of a returned document.
    min_probability : float, optional
        Least probability of relevance of a returned document.
    score_type : str, optional
        `probability`, `raw` or `share` (of the store); probability where the model gives one, else raw, if not given.
    approximate : bool
        Faster, and may miss some of the best documents.
    **options
        The others of `BlockRankReranker.from_pretrained`.
    """

    store: str

    @with_options()
    def __init__(
        self,
        store: UserPath,
        model: UserPath = DEFAULT_MODEL,
        device: ComponentDevice | None = None,
        token: Secret | None = Secret.from_env_var(["HF_API_TOKEN", "HF_TOKEN"], strict=False),
        top_k: int = 10,
        score_threshold: float | None = None,
        min_probability: float | None = None,
        score_type: ScoreType | None = None,
        approximate: bool = False,
        **options: Any,
    ) -> None:
        self._choose(top_k, score_threshold, min_probability, score_type)
        check_store(store)
        self._describe(model, device, token, {**options, "store": store})
        self.approximate = approximate

    def to_dict(self) -> dict[str, Any]:
        """Settings of the component, without secrets and without a device that was not asked for."""
        return default_to_dict(self, **self._saved(), approximate=self.approximate)

    @component.output_types(documents=list[Document])
    def run(self, query: str, top_k: int | None = None) -> dict[str, list[Document]]:
        """Find the best documents of the store for a query.

        Parameters
        ----------
        query : str
            Not empty.
        top_k : int, optional
            Instead of the component's.

        Returns
        -------
        dict
            `documents`: best first.

        Raises
        ------
        ValueError
            For an empty query and a `top_k` below 1, and a store that cannot be searched with the model.
        """
        found = self._scoring(top_k).search(self._loaded(), self.store, query, self.approximate)
        return {"documents": [_document(document) for document in found]}

    @component.output_types(documents=list[Document])
    async def run_async(self, query: str, top_k: int | None = None) -> dict[str, list[Document]]:
        """As `run`, in a thread that stops when nobody waits for it any more."""
        return await in_executor(self.run, query, top_k)


def _document(found: ScoredDocument) -> Document:
    ranked = found.ranked
    title = {"title": ranked.document.title} if ranked.document.title else {}
    return Document(
        id=ranked.id or "",  # Haystack then makes one of the content
        content=ranked.text,
        score=found.score,
        meta=title | metadata_of(ranked),
    )
