"""Rankings that say where the query looked: explanations, and contexts for a generator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blockrank_rerank.engine.shared import SharedEngine
from blockrank_rerank.engine.state_lookup import StateLookup
from blockrank_rerank.ranking.attended import AttendedList
from blockrank_rerank.ranking.context.context import Context, build_context, empty_context
from blockrank_rerank.ranking.context.settings import MAX_TOKENS, TEMPLATE, ContextSettings
from blockrank_rerank.ranking.explanation import Explanation, explained
from blockrank_rerank.ranking.results import Limits
from blockrank_rerank.text.document import GivenDocument


class AttentiveRanking:
    """``explain`` and ``context``, for a class that has a shared engine, a lookup and limits."""

    _shared: SharedEngine
    lookup: StateLookup | None

    if TYPE_CHECKING:

        def _limits(self, top_k: int | None, threshold: float | None, min_probability: float | None) -> Limits: ...

    def explain(
        self,
        query: str,
        documents: Iterable[GivenDocument],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        min_probability: float | None = None,
    ) -> Explanation:
        """Rank documents and show where in each the query looked.

        Documents that are prepared, or that a cache or store holds, are not read. Others are read once, or twice where
        the prompt makes them depend on the query, or with ``prune``. The states of the whole list are in memory for
        it, whatever ``max_memory`` says.

        Parameters
        ----------
        query, documents, top_k, threshold, min_probability
            As in :meth:`rank`.

        Returns
        -------
        Explanation
            Best document first; words and sentences with weights.
        """
        limits = self._limits(top_k, threshold, min_probability)
        attended = self._attended("explain", query, documents)
        if attended is None:
            return Explanation(query, [])
        ranking = limits.select(attended.ranking)
        return Explanation(query, explained(attended, ranking), ranking)

    def context(
        self,
        query: str,
        documents: Iterable[GivenDocument],
        max_tokens: int = MAX_TOKENS,
        tokenizer: Any = None,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        min_probability: float | None = None,
        diversity: float = 0.0,
        template: str = TEMPLATE,
    ) -> Context:
        """Rank documents, and cut them to the sentences that a generator's prompt has room for.

        Every sentence is scored as it was read in its document, and the best that fit are taken, but for those that say
        what one before says. The text is never longer than the budget; where no sentence fits, it is empty, with a
        warning. What it takes is what :meth:`explain` takes.

        Parameters
        ----------
        query, documents
            As in :meth:`rank`.
        max_tokens : int
            Most tokens of the context's text, at least 1.
        tokenizer : object, optional
            Counts them: a tokenizer of Hugging Face or tiktoken, or a callable from a text to a number; the ranker's
            own if not given.
        top_k, threshold, min_probability
            As in :meth:`rank`: which documents may be in the context.
        diversity : float
            In 0–1: how much a sentence loses for being like one that was taken before (maximal marginal relevance).
        template : str
            How a document is written: a format string with ``{text}``, and maybe ``{title}``, ``{id}``, ``{index}`` and
            ``{number}``, which counts from 1. Pieces of one document are on lines of their own, and an empty line is
            between documents.

        Returns
        -------
        Context
            Pieces of the documents, what was dropped and why, and the text.

        Raises
        ------
        TypeError, ValueError
            As :meth:`rank`; for settings that cannot be used, and a tokenizer that fails.
        """
        settings = ContextSettings(max_tokens, tokenizer, diversity, template)
        limits = self._limits(top_k, threshold, min_probability)
        attended = self._attended("context", query, documents)
        if attended is None:
            return empty_context()
        likely = replace(limits, top_k=None).select(attended.ranking)
        return build_context(attended, likely, settings, top_k)

    def _attended(self, what: str, query: str, documents: Iterable[GivenDocument]) -> AttendedList | None:
        """Rank a list for what only attention can give; nothing for one without documents."""
        self._shared.spec.refuse_decoding(what)
        return AttendedList.of(self._shared.get, self.lookup, query, documents)
