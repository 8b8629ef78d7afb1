"""Ranking all documents of a store, of which only those that can still win are scored from their states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.engine.search_index import LostStatesError, SearchIndex, new_search_index, search_index
from blockrank_rerank.engine.shared import SharedEngine
from blockrank_rerank.engine.workers import without_autocast
from blockrank_rerank.model.names import shown_model
from blockrank_rerank.model.scores import RULES
from blockrank_rerank.ranking.batches import Batches
from blockrank_rerank.ranking.request import check_request, check_requests, fitting_requests
from blockrank_rerank.ranking.results import Limits, Ranking
from blockrank_rerank.states.document_files import DamagedDocumentsError
from blockrank_rerank.states.stored_documents import StoredDocuments
from blockrank_rerank.system.files import UserPath

if TYPE_CHECKING:
    from blockrank_rerank.engine.engine import Engine

LEAST_LOOKED_AT = 200
LOOKED_AT_EACH = 5
"""Documents that an approximate search looks at closely: at least, and for each one that is wanted."""


class Searching:
    """Search over whole stores, for a class that has a shared engine."""

    _shared: SharedEngine
    _limits: Callable[[int | None, float | None, float | None], Limits]

    def search(
        self,
        store: UserPath | StoredDocuments,
        query: str,
        top_k: int | None = 10,
        *,
        min_probability: float | None = None,
        approximate: bool = False,
    ) -> Ranking:
        """Rank all documents of a store for a query, best first; ties keep the order in which they came.

        The result is that of :meth:`rank` over all of them, to rounding, for models whose query meets documents at the
        scoring layer alone. Keys in 8 bits bound every raw score; documents that can be among the best ``top_k`` are
        scored from the states in the store. The first search reads all of these and keeps the 8 bits in memory, as long
        as the model is loaded; what is prepared, replaced or deleted later is taken up by the next one.

        Parameters
        ----------
        store : str, path-like or StoredDocuments
            Prepared by this model.
        query : str
            Not empty.
        top_k : int, optional
            Documents to return; None for all.
        min_probability : float, optional
            As in :meth:`rank`.
        approximate : bool
            Faster, and may miss some of the best documents: only 200, or five times ``top_k`` where that is more, are
            looked at closely, those whose keys, pooled by eight neighbouring tokens, the query is nearest to.

        Returns
        -------
        Ranking
            ``index`` is the place among the store's documents, as iterating over :class:`StoredDocuments` gives them;
            ``score`` is the share of all of them, to about a thousandth, or if ``approximate`` of those looked at.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As :meth:`rank`; ValueError also for the store of another model, one without documents, and a model whose
            query sees documents before the scoring layer.
        FileNotFoundError
            For a folder that is no store.
        """
        limits = self._limits(top_k, None, min_probability)
        self._shared.spec.refuse_decoding("search")
        _check_independent(self._shared.config, shown_model(self._shared.spec.checkpoint.model))
        documents = store if isinstance(store, StoredDocuments) else StoredDocuments(store)
        engine = self._shared.get()
        index = search_index(engine, documents)
        query = fitting_requests(check_requests([(query, [""])]), lambda: engine.prompt)[0].query
        with without_autocast():
            try:
                return _search(index, engine, query, limits, approximate)
            except (FileNotFoundError, DamagedDocumentsError, LostStatesError):
                # Another process may have put another store there, whose files have the same names.
                return _search(new_search_index(engine, documents.folder), engine, query, limits, approximate)


def _check_independent(config: BlockRankConfig, model: str) -> None:
    if config.documents_are_independent:
        return
    why = "the scoring layer is one of its own"
    if config.scoring_head:
        why = f"its query sees them from layer {config.query_documents_from_layer} of {config.scoring_layer} on"
    raise ValueError(
        f"search needs a model whose query meets documents in an appended scoring layer alone, and of {model} {why}: "
        "let a first stage choose candidates, and rank these"
    )


def _search(index: SearchIndex, engine: Engine, query: str, limits: Limits, approximate: bool) -> Ranking:
    searched = index.current(engine)
    count = len(searched.places) if limits.top_k is None else min(limits.top_k, len(searched.places))
    if not count:
        return Ranking()
    looked_at = max(LEAST_LOOKED_AT, LOOKED_AT_EACH * count) if approximate else None
    middle, lower, upper = searched.bounds(engine, query, looked_at)
    # By other rules a document's place depends on all others.
    bounded = RULES[engine.config.reduction].orders_by_raw_score
    least = lower.topk(count).values[-1] if bounded else torch.tensor(float("-inf"), dtype=torch.float32, device="cpu")
    chosen: list[int] = ((upper >= least) & upper.isfinite()).nonzero()[:, 0].tolist()
    documents = index.documents.read([searched.places[number] for number in chosen])
    (batch,) = Batches([check_request((query, documents))], engine, index.lookup)
    ((_, ranking),) = batch.rankings(engine)
    share = _share(middle, chosen, [found.raw_score for found in ranking])
    placed = [replace(found, index=chosen[found.index], score=found.score * share) for found in ranking]
    return limits.select(Ranking(placed))


def _share(raw_scores: Tensor, chosen: Sequence[int], exact: Sequence[float]) -> float:
    """The share of all documents that chosen ones receive together, of which the raw scores are exact."""
    others = raw_scores.clone()
    others[chosen] = float("-inf")
    return float((torch.tensor(exact, dtype=torch.float32, device="cpu").logsumexp(0) - others.logsumexp(0)).sigmoid())
