"""The reranker where a cross-encoder is expected."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blockrank_rerank.model.names import DEFAULT_MODEL
from blockrank_rerank.options import with_options
from blockrank_rerank.ranking.results import Limits, RankedDocument, truncation
from blockrank_rerank.ranking.score_type import (
    ScoredDocument,
    ScoreType,
    check_score_type,
    resolve_score_type,
    scored,
)
from blockrank_rerank.reranker import BlockRankReranker
from blockrank_rerank.system.files import UserPath
from blockrank_rerank.text.document import Document, GivenDocument

NO_EFFECT = frozenset(
    {"batch_size", "chunk_size", "num_workers", "show_progress_bar", "apply_softmax", "processing_kwargs"}
    | {"convert_to_numpy", "convert_to_tensor"}
)
"""Arguments of ``CrossEncoder`` that change nothing here: a list is one forward pass of one score per pair, and long
documents are split and not cut."""

Activation = Callable[[Tensor], Tensor]
Pair = Sequence[Any]
"""A query and a document."""


class _NoModelCard:
    """Where sentence-transformers' evaluators write their metrics."""

    def set_evaluation_metrics(self, *ignored: Any) -> None:
        """Forget them: a ranker is not uploaded."""


class BlockRankCrossEncoder:
    """The interface of sentence-transformers' ``CrossEncoder`` over a list-wise reranker.

    A score is the probability that a document is relevant to its query, or the raw score of a model that gives no
    probability: either way a pair's score does not depend on the other pairs. Candidates of one query that follow each
    other are read together.

    Parameters
    ----------
    reranker : BlockRankReranker, str or path-like, optional
        A reranker, or a model as for :meth:`BlockRankReranker.from_pretrained`; the default one if not given.
    score_type : str, optional
        ``probability``, ``raw`` or ``share``; probability where the model gives one, else raw, if not given. Shares
        sum to 1 over the pairs of one query that follow each other.
    activation_fn : callable, optional
        Applied to scores where a call names no other; the identity if not given.
    **options
        The others of :meth:`BlockRankReranker.from_pretrained`, for a model.

    Raises
    ------
    TypeError
        For another type, unknown options, and options beside a reranker, which has its own.
    ValueError
        For values that cannot be used.
    """

    num_labels = 1
    """One score for each pair."""

    @with_options(without=("model",))
    def __init__(
        self,
        reranker: BlockRankReranker | UserPath | None = None,
        *,
        score_type: ScoreType | None = None,
        activation_fn: Activation | None = None,
        **options: Any,
    ) -> None:
        check_score_type(score_type)
        reranker = DEFAULT_MODEL if reranker is None else reranker
        if isinstance(reranker, str | os.PathLike):
            reranker = BlockRankReranker.from_pretrained(reranker, **options)
        elif options and isinstance(reranker, BlockRankReranker):
            raise TypeError(
                f"options are for a model that is named, and this reranker has its own; got {', '.join(options)}"
            )
        if not isinstance(reranker, BlockRankReranker):
            raise TypeError(f"reranker must be a BlockRankReranker or a model's name, got {type(reranker).__name__}")
        self.score_type = score_type
        self.activation_fn: Activation = activation_fn or torch.nn.Identity()
        self.reranker = reranker
        self.model_card_data = _NoModelCard()

    @property
    def device(self) -> torch.device:
        """Device of the model; loads it."""
        return self.reranker.device

    @property
    def max_length(self) -> int | None:
        """Most tokens of a document that are read in one piece; longer ones are split, or what the options say."""
        return self.reranker.config.max_document_tokens

    @max_length.setter
    def max_length(self, tokens: int | None) -> None:
        if left_behind := self.reranker.left_behind:
            raise ValueError(
                f"max_length cannot be set to {tokens} beside {', '.join(left_behind)}, which would be left behind: "
                f"give max_document_tokens={tokens} where the reranker is made"
            )
        self.reranker = self.reranker.with_config(max_document_tokens=tokens)

    def rank(
        self,
        query: str,
        documents: Iterable[GivenDocument],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        activation_fn: Activation | None = None,
        activation_fct: Activation | None = None,
        device: Any = None,
        **tuning: Any,
    ) -> list[dict[str, Any]]:
        """Rank documents, best first, as ``{"corpus_id", "score"[, "text"]}``, and ``truncated`` where one was cut.

        ``activation_fn`` (once ``activation_fct``) is applied to the scores, instead of the attribute of this name;
        other arguments of ``CrossEncoder.rank`` (:data:`NO_EFFECT`) are accepted and change nothing.
        """
        _check(tuning)
        limits = Limits(top_k)
        activation = self._activation(activation_fn, activation_fct)
        self._check_device(device)
        # Every document has a score, whatever threshold a calibration has.
        found = self._scored(self.reranker.rank(query, documents, min_probability=0))
        # It may depend on the whole list, and change its order.
        scores = _activated(activation, [document.score for document in found]).tolist()
        best = sorted(zip(scores, found, strict=True), key=lambda pair: -pair[0])[: limits.top_k]
        return [
            {"corpus_id": document.ranked.index, "score": score}
            | ({"text": document.ranked.text} if return_documents else {})
            | truncation(document.ranked)
            for score, document in best
        ]

    def predict(
        self,
        inputs: Iterable[Pair] | np.ndarray | None = None,
        *,
        sentences: Iterable[Pair] | np.ndarray | None = None,
        show_progress_bar: bool | None = False,
        activation_fn: Activation | None = None,
        activation_fct: Activation | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        **tuning: Any,
    ) -> np.ndarray | np.float32 | Tensor | list[Tensor]:
        """Scores of (query, document) pairs, in their order.

        Parameters
        ----------
        inputs : iterable of (str, str), array of shape [pairs, 2], or one pair
            Consecutive pairs with the same query are read together.
        sentences : as inputs
            The name of ``inputs`` before sentence-transformers 6.
        show_progress_bar : bool, optional
            As ``show_progress`` of :meth:`BlockRankReranker.rank_batch`.
        activation_fn : callable, optional
            Applied to the scores, instead of the attribute of this name.
        activation_fct : callable, optional
            The name of ``activation_fn`` before sentence-transformers 4.
        convert_to_numpy, convert_to_tensor : bool
            The form of the result: a tensor where that is asked for, else an array, else a list of tensors.
        device : str, torch.device or list, optional
            That of the model, which stays where it was loaded.
        **tuning
            Other arguments of ``CrossEncoder.predict`` (:data:`NO_EFFECT`), which change nothing.

        Returns
        -------
        numpy.ndarray, Tensor or list of Tensor
            ``[pairs]`` fp32, on the CPU; of one pair the element itself.

        Raises
        ------
        TypeError
            For other arguments, and another device than the model's.
        ValueError
            For anything that is neither a pair nor a list of pairs.
        """
        _check(tuning)
        if inputs is not None and sentences is not None:
            raise TypeError("inputs and sentences are two names of one argument; give one of them")
        activation = self._activation(activation_fn, activation_fct)
        self._check_device(device)
        pairs = _listed(sentences if inputs is None else inputs)
        single = self.is_singular_input(pairs)
        scores = _activated(activation, self._pair_scores([pairs] if single else pairs, show_progress_bar))
        if not convert_to_tensor and convert_to_numpy:
            array: np.ndarray = scores.numpy()
            return np.float32(array[0]) if single else array
        if single:
            return scores[0]
        return scores if convert_to_tensor else list(scores)

    def is_singular_input(self, inputs: Any) -> bool:
        """Whether inputs of :meth:`predict` are one pair, and not a list or an array of pairs."""
        if isinstance(inputs, np.ndarray):
            return inputs.ndim < 2 and inputs.size > 0 and not isinstance(inputs.flat[0], list | tuple | np.ndarray)
        if isinstance(inputs, str | Mapping) or not isinstance(inputs, Sequence):
            return not isinstance(inputs, Iterator)
        return len(inputs) > 0 and not isinstance(inputs[0], list | tuple | np.ndarray)

    def _pair_scores(self, pairs: Sequence[Any], show_progress: bool | None) -> list[float]:
        requests = _requests(pairs)
        if self.score_type == "share":
            _warn_of_shares(requests, len(pairs))
        rankings = self.reranker.rank_batch(requests, min_probability=0, show_progress=show_progress)
        ordered = [sorted(self._scored(ranking), key=lambda found: found.ranked.index) for ranking in rankings]
        return [found.score for ranking in ordered for found in ranking]

    def _scored(self, ranking: Sequence[RankedDocument]) -> list[ScoredDocument]:
        if not ranking:
            return []
        reranker = self.reranker
        return scored(ranking, resolve_score_type(self.score_type, reranker.gives_probabilities, reranker.model))

    def _activation(self, activation_fn: Activation | None, activation_fct: Activation | None) -> Activation:
        if activation_fn is not None and activation_fct is not None:
            raise TypeError("activation_fn and activation_fct are two names of one argument; give one of them")
        return activation_fn or activation_fct or self.activation_fn

    def _check_device(self, device: Any) -> None:
        """Refuse another device than the model's: what is asked for by name is never replaced."""
        names = [] if device is None else list(device) if isinstance(device, list | tuple) else [device]
        model = self.device if names else None
        for name in names:
            if model is not None and not _is_device(name, model):
                raise TypeError(
                    f"argument 'device' is not supported but for the model's own, {model}, got {str(name)!r}; "
                    "name it where the model is named: BlockRankCrossEncoder(model, device=…)"
                )


def _is_device(name: Any, model: torch.device) -> bool:
    try:
        named = torch.device(name)
    except (RuntimeError, TypeError):
        return False
    return named.type == model.type and (named.index or 0) == (model.index or 0)


def _activated(activation: Activation, scores: Sequence[float]) -> Tensor:
    """Scores after an activation, fp32."""
    given = torch.tensor(scores, dtype=torch.float32, device="cpu")
    return activation(given).detach().float()


def _check(tuning: dict[str, Any]) -> None:
    refused = sorted(name for name, value in tuning.items() if name not in NO_EFFECT and value is not None)
    if refused:
        raise TypeError(
            f"argument {refused[0]!r} is not supported; those of CrossEncoder that are accepted and change nothing are "
            f"{', '.join(sorted(NO_EFFECT))}"
        )


def _listed(inputs: Any) -> Any:
    """Inputs whose pairs can be counted: iterators are read, arrays become lists."""
    if isinstance(inputs, np.ndarray):
        return inputs.tolist()
    # A table's elements are the names of its columns.
    if inputs is None or isinstance(inputs, str | Mapping) or hasattr(inputs, "columns"):
        raise ValueError(f"inputs must be a list of (query, document) pairs, got {type(inputs).__name__}")
    try:
        return inputs if isinstance(inputs, list | tuple) else list(inputs)
    except TypeError as error:
        raise ValueError(f"inputs must be a list of (query, document) pairs, got {type(inputs).__name__}") from error


def _requests(pairs: Sequence[Any]) -> list[tuple[str, list[Document]]]:
    for number, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list | np.ndarray) or len(pair) != 2:
            raise ValueError(f"inputs must be a list of (query, document) pairs, and inputs[{number}] is {pair!r:.80}")
    listed = [pair.tolist() if isinstance(pair, np.ndarray) else pair for pair in pairs]
    return [(query, [document for _, document in alike]) for query, alike in groupby(listed, lambda pair: pair[0])]


def _warn_of_shares(requests: Sequence[tuple[str, list[Document]]], pairs: int) -> None:
    if len({query for query, _ in requests}) < len(requests):
        warnings.warn(
            "a query comes back after another one's pairs, so its documents are two lists with shares of their own; "
            "give all candidates of a query together",
            stacklevel=4,
        )
    elif requests and len(requests) == pairs:
        warnings.warn(
            "no two neighbouring pairs have the same query, so every list has one document, whose share is 1.0; give "
            "all candidates of a query together",
            stacklevel=4,
        )
