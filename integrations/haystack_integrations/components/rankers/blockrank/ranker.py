"""The ranker component of Haystack."""

# Without `from __future__ import annotations`: haystack-ai 2.20 does not connect inputs whose types are strings.
import math
from dataclasses import replace
from typing import Any

from haystack import Document, component, default_to_dict
from haystack.utils import ComponentDevice, Secret
from haystack_integrations.components.rankers.blockrank.described_model import DescribedModel

from blockrank_rerank.adapters import (
    DEFAULT_MODEL,
    HIGHLIGHTS,
    ExplainedDocument,
    ScoredDocument,
    ScoreType,
    UserPath,
    check_query,
    in_executor,
    metadata_of,
    with_options,
)


@component
class BlockRankRanker(DescribedModel):
    """Ranks documents with BlockRank; a document's new score is what `score_type` says.

    By default that is the probability of relevance, or the raw score of a model that gives no probability: neither
    depends on the list. Each document's meta has its `probability`, and the `passage` that won where it was split. The
    output `answerable` says how likely some document of the list answers the query. Components with the same settings
    share one loaded model.

    Parameters
    ----------
    model : str
        Folder, Hub id, or "default" for the model in the package.
    device : ComponentDevice, optional
        CUDA where there is one, if not given; a saved pipeline does not pin it then.
    token : Secret, optional
        For private and gated models on the Hub.
    top_k : int, optional
        Documents to return, at least 1; None for all.
    query_prefix, query_suffix, document_prefix, document_suffix : str
        Written around the texts.
    meta_fields_to_embed : list of str, optional
        Meta fields that stand before the content; those that a document lacks, or that are None, are left out.
    embedding_separator : str
        Between meta fields and content.
    score_threshold : float, optional
        Least score of a returned document, before `top_k`.
    min_probability : float, optional
        Least probability of relevance of a returned document, before `top_k`.
    score_type : str, optional
        `probability`, `raw` or `share` (of the list); probability where the model gives one, else raw, if not given.
    explain : bool
        Write `highlights` to each document's meta: its sentences, those that the query looked at most first, as
        `start`, `end` (code points of the content), `weight` and `text`.
    **options
        The others of `BlockRankReranker.from_pretrained`.
    """

    @with_options()
    def __init__(
        self,
        model: UserPath = DEFAULT_MODEL,
        device: ComponentDevice | None = None,
        token: Secret | None = Secret.from_env_var(["HF_API_TOKEN", "HF_TOKEN"], strict=False),
        top_k: int | None = 10,
        query_prefix: str = "",
        query_suffix: str = "",
        document_prefix: str = "",
        document_suffix: str = "",
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        score_threshold: float | None = None,
        min_probability: float | None = None,
        explain: bool = False,
        score_type: ScoreType | None = None,
        **options: Any,
    ) -> None:
        self._choose(top_k, score_threshold, min_probability, score_type)
        _check_texts(
            query_prefix=query_prefix,
            query_suffix=query_suffix,
            document_prefix=document_prefix,
            document_suffix=document_suffix,
            embedding_separator=embedding_separator,
        )
        if not isinstance(explain, bool):
            raise ValueError(f"explain must be True or False, got {explain!r}")
        self._describe(model, device, token, options)
        self.query_prefix, self.query_suffix = query_prefix, query_suffix
        self.document_prefix, self.document_suffix = document_prefix, document_suffix
        self.meta_fields_to_embed = _field_names(meta_fields_to_embed)
        self.embedding_separator = embedding_separator
        self.explain = explain

    def to_dict(self) -> dict[str, Any]:
        """Settings of the component, without secrets and without a device that was not asked for."""
        return default_to_dict(
            self,
            **self._saved(),
            query_prefix=self.query_prefix,
            query_suffix=self.query_suffix,
            document_prefix=self.document_prefix,
            document_suffix=self.document_suffix,
            meta_fields_to_embed=list(self.meta_fields_to_embed),
            embedding_separator=self.embedding_separator,
            explain=self.explain,
        )

    @component.output_types(documents=list[Document], answerable=float | None)
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, Any]:
        """Rank documents for a query.

        Parameters
        ----------
        query : str
            Not empty.
        documents : list of Document
            Candidates, not changed; of several with one id, the one with the highest score counts.
        top_k : int, optional
            Instead of the component's.
        score_threshold : float, optional
            Instead of the component's.

        Returns
        -------
        dict
            `documents`: copies with new scores, best first; `answerable`: probability that some of the documents that
            were given answers the query, or None where the model cannot tell.

        Raises
        ------
        TypeError
            For what is no Document.
        ValueError
            For an empty query and a `top_k` below 1.
        """
        scoring = self._scoring(top_k, score_threshold)
        check_query(query)
        if not documents:
            return {"documents": [], "answerable": None}
        candidates = _unique(documents)
        texts = [self._text(document) for document in candidates]
        ranking = scoring.rank(self._loaded(), self._asked(query), texts, self.explain)
        ranked = [
            self._ranked(candidates[found.ranked.index], found, ranking.explained.get(found.ranked.index))
            for found in ranking
        ]
        return {"documents": ranked, "answerable": ranking.answerable}

    @component.output_types(documents=list[Document], answerable=float | None)
    async def run_async(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, Any]:
        """As `run`, in a thread that stops when nobody waits for it any more."""
        return await in_executor(self.run, query, documents, top_k, score_threshold)

    def _asked(self, query: str) -> str:
        return f"{self.query_prefix}{query}{self.query_suffix}"

    def _text(self, document: Document) -> str:
        fields = [document.meta.get(name) for name in self.meta_fields_to_embed]
        parts = [str(value) for value in fields if value is not None] + [document.content or ""]
        return f"{self.document_prefix}{self.embedding_separator.join(parts)}{self.document_suffix}"

    def _ranked(self, document: Document, found: ScoredDocument, explained: ExplainedDocument | None) -> Document:
        """A copy with its new score, and in its meta what the ranking says of its content."""
        start, end = self._own_text(document, found.ranked.text)
        added = metadata_of(found.ranked, start, end)
        if explained is not None:
            added[HIGHLIGHTS] = explained.within(start, end).highlights
        return replace(document, score=found.score, meta=document.meta | added)

    def _own_text(self, document: Document, read: str) -> tuple[int, int]:
        """Code points of a document's content in what the model read."""
        end = len(read) - len(self.document_suffix)
        return end - len(document.content or ""), end


def _check_texts(**texts: str) -> None:
    for name, text in texts.items():
        if not isinstance(text, str):  # an empty value of a YAML file is None
            raise ValueError(f"{name} must be a str, got {text!r}; '' for none")


def _field_names(names: list[str] | None) -> list[str]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names or []):
        raise ValueError(f"meta_fields_to_embed must be a list of names, got {names!r}")
    return list(names or [])


def _unique(documents: list[Document]) -> list[Document]:
    """Of documents with one id, the one with the highest score, in the place of the first."""
    best: dict[str, Document] = {}
    for index, document in enumerate(documents):
        if not isinstance(document, Document):
            raise TypeError(f"documents[{index}] must be a Document, got {type(document).__name__}")
        if document.id not in best or _score(document) > _score(best[document.id]):
            best[document.id] = document
    return list(best.values())


def _score(document: Document) -> float:
    return -math.inf if document.score is None else document.score
