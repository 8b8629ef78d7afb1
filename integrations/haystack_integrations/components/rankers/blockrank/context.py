"""The component of Haystack that cuts documents to what a prompt has room for."""

# Without `from __future__ import annotations`: haystack-ai 2.20 does not connect inputs whose types are strings.
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from haystack import Document, component, default_from_dict
from haystack.core.errors import SerializationError
from haystack.utils import deserialize_callable, serialize_callable
from haystack_integrations.components.rankers.blockrank.ranker import BlockRankRanker, _unique

from blockrank_rerank import DroppedPiece
from blockrank_rerank.adapters import (
    MAX_TOKENS,
    TEMPLATE,
    Context,
    ContextSettings,
    ScoredDocument,
    check_query,
    in_executor,
    metadata_of_cut,
    near_duplicate_of,
)


@component
class BlockRankContext(BlockRankRanker):
    """Ranks documents, and cuts them to those of their sentences that a generator's prompt has room for.

    Stands between a retriever and a prompt builder. Each document's meta has the `pieces` that are left of it, as
    `[start, end]` in code points of its content.

    Parameters
    ----------
    max_tokens : int
        Most tokens of the output `text`.
    tokenizer : callable, optional
        From a text to its tokens or their number; the model's own tokenizer counts if not given. A saved pipeline
        names the function.
    diversity : float
        In 0–1: how much a sentence loses for being like one that was taken before.
    template : str
        How a document is written into `text`: see `BlockRankReranker.context`.
    top_k : int, optional
        Documents that may be in the context; all if not given.
    **settings
        As of `BlockRankRanker`, but `explain`.
    """

    def __init__(
        self,
        max_tokens: int = MAX_TOKENS,
        tokenizer: Callable[[str], Any] | None = None,
        diversity: float = 0.0,
        template: str = TEMPLATE,
        top_k: int | None = None,
        **settings: Any,
    ) -> None:
        if "explain" in settings:
            raise TypeError("BlockRankContext has no explain: the meta of its documents have `pieces`")
        self.settings = ContextSettings(max_tokens, tokenizer, diversity, template)
        # The decorator makes another class of this one, which `super()` would not know.
        BlockRankRanker.__init__(self, top_k=top_k, **settings)

    def to_dict(self) -> dict[str, Any]:
        """Settings of the component, without secrets and without a device that was not asked for."""
        saved = BlockRankRanker.to_dict(self)
        parameters = saved["init_parameters"]
        del parameters["explain"]
        mine = self.settings
        parameters |= {"max_tokens": mine.max_tokens, "diversity": mine.diversity, "template": mine.template}
        parameters["tokenizer"] = None if mine.tokenizer is None else _named(mine.tokenizer)
        return saved

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "BlockRankContext":
        """A component with saved settings."""
        parameters = dict(data.get("init_parameters", {}))
        if parameters.get("tokenizer") is not None:
            parameters["tokenizer"] = deserialize_callable(parameters["tokenizer"])
        return default_from_dict(cls, {**data, "init_parameters": cls._read(parameters)})

    @component.output_types(documents=list[Document], text=str, dropped=list[dict[str, Any]], answerable=float | None)
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
        max_tokens: int | None = None,
    ) -> dict[str, Any]:
        """Rank documents for a query, and cut them.

        Parameters
        ----------
        query, documents, top_k, score_threshold
            As of `BlockRankRanker.run`.
        max_tokens : int, optional
            Instead of the component's.

        Returns
        -------
        dict
            `documents`: copies of what is left, best first; `text`: the same as one context; `dropped`: the rest, as
            `id` of the document, `start`, `end` and `text` in its content, `score`, `probability`, `reason`, and of
            a near-duplicate `duplicate_of`, the id of the other; `answerable`: as of `BlockRankRanker.run`.

        Raises
        ------
        TypeError, ValueError
            As `BlockRankRanker.run`.
        """
        scoring = self._scoring(top_k, score_threshold)
        settings = self.settings if max_tokens is None else replace(self.settings, max_tokens=max_tokens)
        check_query(query)
        if not documents:
            return {"documents": [], "text": "", "dropped": [], "answerable": None}
        candidates = _unique(documents)
        texts = [self._text(document) for document in candidates]
        within = {n: self._own_text(*pair) for n, pair in enumerate(zip(candidates, texts, strict=True))}
        context, found = scoring.context(self._loaded(), self._asked(query), texts, settings, within)
        cut = [self._cut(candidates[one.ranked.index], one, context) for one in found]
        dropped = [_left_out(piece, candidates, within[piece.index][0]) for piece in context.dropped]
        answerable = context.ranking.answerable
        return {"documents": cut, "text": context.text, "dropped": dropped, "answerable": answerable}

    @component.output_types(documents=list[Document], text=str, dropped=list[dict[str, Any]], answerable=float | None)
    async def run_async(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
        max_tokens: int | None = None,
    ) -> dict[str, Any]:
        """As `run`, in a thread that stops when nobody waits for it any more."""
        return await in_executor(self.run, query, documents, top_k, score_threshold, max_tokens)

    def _cut(self, document: Document, found: ScoredDocument, context: Context) -> Document:
        start, _ = self._own_text(document, found.ranked.text)
        meta = document.meta | metadata_of_cut(found.ranked, context, -start)
        return replace(document, content=context.texts[found.ranked.index], score=found.score, meta=meta)


def _named(tokenizer: Callable[[str], Any]) -> str:
    """The name by which a saved pipeline finds a function."""
    if not hasattr(tokenizer, "__qualname__"):
        raise SerializationError(
            f"a saved pipeline needs a named function as tokenizer, got an object of class {type(tokenizer).__name__}; "
            "define one in a module, from a text to its tokens or their number, that calls it"
        )
    return serialize_callable(tokenizer)


def _left_out(piece: DroppedPiece, documents: list[Document], start: int) -> dict[str, Any]:
    """What was left out of a document, whose content starts there in what the model read; documents by their ids."""
    found = {"id": documents[piece.index].id} | asdict(piece) | {"start": piece.start - start, "end": piece.end - start}
    del found["index"]
    if piece.duplicate_of is None:
        return found
    other = documents[piece.duplicate_of].id
    return found | {"duplicate_of": other, "reason": near_duplicate_of(other)}
