from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from blockrank_rerank.reranker import BlockRankReranker


class _NoModelCard:
    """Where sentence-transformers' evaluators write their metrics."""

    def set_evaluation_metrics(self, *ignored: Any) -> None:
        """Forget them: a ranker is not uploaded."""


class BlockRankCrossEncoder:
    """The interface of sentence-transformers' ``CrossEncoder`` over a list-wise reranker.

    Scores are attention shares: they compare documents of one query, and a pair that stands alone has
    the score 1.0. Give all candidates of a query together.

    Parameters
    ----------
    reranker : BlockRankReranker, optional
        The default model if not given.
    """

    def __init__(self, reranker: BlockRankReranker | None = None) -> None:
        self.reranker = reranker or BlockRankReranker.from_pretrained()
        self.model_card_data = _NoModelCard()

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        **ignored: Any,
    ) -> list[dict[str, Any]]:
        """Rank documents, best first, as ``{"corpus_id", "score"[, "text"]}``.

        ``batch_size``, ``show_progress_bar`` and the other tuning arguments of ``CrossEncoder.rank`` are
        accepted and have no effect: the whole list is one forward pass.
        """
        return [
            {"corpus_id": document.index, "score": document.score}
            | ({"text": document.text} if return_documents else {})
            for document in self.reranker.rank(query, documents, top_k=top_k)
        ]

    def predict(
        self, sentences: Sequence[Sequence[str]], show_progress_bar: bool | None = False, **ignored: Any
    ) -> np.ndarray:
        """Scores of (query, document) pairs, in their order.

        Parameters
        ----------
        sentences : sequence of (str, str)
            Consecutive pairs with the same query form one list.
        show_progress_bar : bool, optional
            As ``show_progress`` of :meth:`BlockRankReranker.rank_batch`.

        Returns
        -------
        numpy.ndarray
            ``[len(sentences)]`` fp32.

        Raises
        ------
        ValueError
            For anything that is not a list of pairs.
        """
        if isinstance(sentences, str) or not all(
            isinstance(pair, tuple | list) and len(pair) == 2 for pair in sentences
        ):
            raise ValueError("sentences must be a list of (query, document) pairs")
        requests = [
            (query, [document for _, document in pairs]) for query, pairs in groupby(sentences, lambda pair: pair[0])
        ]
        rankings = self.reranker.rank_batch(requests, show_progress=show_progress_bar)
        scores = [
            [document.score for document in sorted(ranking, key=lambda document: document.index)]
            for ranking in rankings
        ]
        return np.array([score for ranking in scores for score in ranking], dtype=np.float32)
