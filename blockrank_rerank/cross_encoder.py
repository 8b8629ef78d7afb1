"""The reranker where a cross-encoder is expected."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blockrank_rerank.model.checkpoint import DEFAULT_MODEL
from blockrank_rerank.options import with_options
from blockrank_rerank.ranking.explanation import truncation
from blockrank_rerank.ranking.results import Limits
from blockrank_rerank.reranker import BlockRankReranker

NO_EFFECT = frozenset(
    {"batch_size", "chunk_size", "num_workers", "show_progress_bar", "apply_softmax"}
    | {"convert_to_numpy", "convert_to_tensor"}
)
"""Arguments of ``CrossEncoder.rank`` that change nothing here: a list is one forward pass of one score per pair."""


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
    reranker : BlockRankReranker, str or Path, optional
        A reranker, or a model as for :meth:`BlockRankReranker.from_pretrained`; the default one if not given.
    **options
        The others of :meth:`BlockRankReranker.from_pretrained`, for a model.

    Raises
    ------
    TypeError
        For another type, unknown options, and options beside a reranker, which has its own.
    """

    num_labels = 1
    """One score for each pair."""

    @with_options(without=("model",))
    def __init__(self, reranker: BlockRankReranker | str | Path | None = None, **options: Any) -> None:
        reranker = DEFAULT_MODEL if reranker is None else reranker
        if isinstance(reranker, str | Path):
            reranker = BlockRankReranker.from_pretrained(reranker, **options)
        elif options and isinstance(reranker, BlockRankReranker):
            raise TypeError(
                f"options are for a model that is named, and this reranker has its own; got {', '.join(options)}"
            )
        if not isinstance(reranker, BlockRankReranker):
            raise TypeError(f"reranker must be a BlockRankReranker or a model's name, got {type(reranker).__name__}")
        self.reranker = reranker
        self.model_card_data = _NoModelCard()

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        activation_fn: Callable[[Tensor], Tensor] | None = None,
        **tuning: Any,
    ) -> list[dict[str, Any]]:
        """Rank documents, best first, as ``{"corpus_id", "score"[, "text"]}``, and ``truncated`` where one was cut.

        ``activation_fn`` is applied to the scores; other arguments of ``CrossEncoder.rank`` (:data:`NO_EFFECT`) are
        accepted and change nothing.
        """
        _check(tuning)
        limits = Limits(top_k)
        ranking = self.reranker.rank(query, documents)
        scores = [document.score for document in ranking]
        if activation_fn is not None:
            # It may depend on the whole list, and change its order.
            scores = activation_fn(torch.tensor(scores)).tolist()
        best = sorted(zip(scores, ranking, strict=True), key=lambda pair: -pair[0])[: limits.top_k]
        return [
            {"corpus_id": document.index, "score": score}
            | ({"text": document.text} if return_documents else {})
            | truncation(document)
            for score, document in best
        ]

    def predict(
        self,
        inputs: Iterable[Sequence[str]] | None = None,
        *,
        sentences: Iterable[Sequence[str]] | None = None,
        show_progress_bar: bool | None = False,
        activation_fn: Callable[[Tensor], Tensor] | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        **tuning: Any,
    ) -> np.ndarray | Tensor | list[Tensor]:
        """Scores of (query, document) pairs, in their order.

        Parameters
        ----------
        inputs : iterable of (str, str)
            Consecutive pairs with the same query form one list.
        sentences : iterable of (str, str)
            The name of ``inputs`` before sentence-transformers 6.
        show_progress_bar : bool, optional
            As ``show_progress`` of :meth:`BlockRankReranker.rank_batch`.
        activation_fn : callable, optional
            Applied to the scores.
        convert_to_numpy, convert_to_tensor : bool
            The form of the result: a tensor where that is asked for, else an array, else a list of tensors.
        **tuning
            Other arguments of ``CrossEncoder.predict`` (:data:`NO_EFFECT`), which change nothing.

        Returns
        -------
        numpy.ndarray, Tensor or list of Tensor
            ``[pairs]`` fp32, on the CPU.

        Raises
        ------
        TypeError
            For other arguments.
        ValueError
            For anything that is not a list of pairs.
        """
        _check(tuning)
        if inputs is not None and sentences is not None:
            raise TypeError("inputs and sentences are two names of one argument; give one of them")
        requests = _requests(sentences if inputs is None else inputs)
        rankings = self.reranker.rank_batch(requests, show_progress=show_progress_bar)
        ordered = [sorted(ranking, key=lambda document: document.index) for ranking in rankings]
        scores = torch.tensor([document.score for ranking in ordered for document in ranking], dtype=torch.float32)
        if activation_fn is not None:
            scores = activation_fn(scores).detach().float()
        if convert_to_tensor:
            return scores
        return scores.numpy() if convert_to_numpy else list(scores)


def _check(tuning: dict[str, Any]) -> None:
    refused = sorted(name for name, value in tuning.items() if name not in NO_EFFECT and value is not None)
    if refused:
        raise TypeError(
            f"argument {refused[0]!r} is not supported; those of CrossEncoder that are accepted and change nothing are "
            f"{', '.join(sorted(NO_EFFECT))}"
        )


def _requests(pairs: Iterable[Sequence[str]] | None) -> list[tuple[str, list[str]]]:
    listed = None if pairs is None or isinstance(pairs, str) else list(pairs)
    if listed is None or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in listed):
        raise ValueError("inputs must be a list of (query, document) pairs")
    requests = [(query, [document for _, document in alike]) for query, alike in groupby(listed, lambda pair: pair[0])]
    if len({query for query, _ in requests}) < len(requests):
        warnings.warn(
            "a query comes back after another one's pairs, so its documents are two lists with shares of their own; "
            "give all candidates of a query together",
            stacklevel=3,
        )
    elif len(requests) > 1 and len(requests) == len(listed):
        warnings.warn(
            "no two neighbouring pairs have the same query, so every list has one document, whose share is 1.0; give "
            "all candidates of a query together",
            stacklevel=3,
        )
    return requests
