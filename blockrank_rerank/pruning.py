from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from blockrank_rerank.blocks import Blocks, tied
from blockrank_rerank.prompt import EncodedRequest
from blockrank_rerank.scoring import raw_score

if TYPE_CHECKING:
    from blockrank_rerank.engine import Engine

Prune = tuple[tuple[int, int], ...]
"""``(layer, documents)``: after so many layers only so many documents of a list go on; layers ascend."""


class Dropped(NamedTuple):
    """A document that an early layer's scores left out; ``raw_score`` is of that layer."""

    document: int
    raw_score: float
    truncated: bool


class Survivors(NamedTuple):
    """What is left of a request: its documents, their blocks and tokens, and those dropped, best first.

    ``lse`` are their scores, where the later layers went on from what the early ones had made.
    """

    documents: list[int]
    blocks: Blocks
    encoded: EncodedRequest
    dropped: list[Dropped]
    lse: Tensor | None = None


def check_prune(prune: Mapping[int, int] | None) -> Prune:
    """Pruning as pairs.

    Raises
    ------
    ValueError
        For anything that is not a mapping of layers to falling numbers of documents.
    """
    if prune is None:
        return ()
    if not isinstance(prune, Mapping) or not all(_positive(n) for pair in prune.items() for n in pair):
        raise ValueError(
            f"prune must map layers to numbers of documents, both above 0, as {{2: 50}} does; got {prune!r}"
        )
    pairs = tuple(sorted(prune.items()))
    if any(later >= earlier for (_, earlier), (_, later) in pairwise(pairs)):
        raise ValueError(f"prune must keep fewer documents at later layers, got {prune!r}")
    return pairs


def _positive(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number > 0


def check_layers(prune: Prune, scoring_layer: int) -> None:
    """Refuse layers at which there is nothing to save.

    Raises
    ------
    ValueError
        For a layer that is not below the scoring layer.
    """
    for layer, _ in prune:
        if layer >= scoring_layer:
            raise ValueError(f"prune: layers must be in 1..{scoring_layer - 1}, below the scoring layer, got {layer}")


def survivors(engine: Engine, blocks: Blocks, encoded: EncodedRequest) -> Survivors:
    """The documents of a request that the engine's early layers leave."""
    left = Survivors(sorted(set(blocks.owners)), blocks, encoded, [])
    begun = None
    for layer, count in engine.prune:
        if len(left.documents) <= count:
            continue
        if engine.keeps_begun(left.encoded):
            lse, begun = engine.stage(layer).scores_and_states(left.encoded, begun)
        else:
            lse = engine.stage(layer).document_scores([left.encoded])[0]
        left, chosen = _keep_best(left, _of_documents(lse, left), count)
        begun = begun and begun.kept(chosen)
    return left if begun is None else left._replace(lse=engine.scores_of_begun(left.encoded, begun))


def _of_documents(lse: Tensor, left: Survivors) -> list[tuple[float, bool]]:
    """Raw score of each document's best block, and whether that was cut; copies tie."""
    raw = tied(raw_score(lse).tolist(), left.encoded.documents)
    return [(raw[block], left.encoded.truncated[block]) for block in left.blocks.best(raw)]


def _keep_best(left: Survivors, scores: Sequence[tuple[float, bool]], count: int) -> tuple[Survivors, list[int]]:
    """So many documents of the best scores, and which blocks theirs were."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place][0])
    kept = sorted(order[:count])
    blocks, chosen = left.blocks.select(kept)
    encoded = replace(
        left.encoded,
        documents=[left.encoded.documents[block] for block in chosen],
        truncated=[left.encoded.truncated[block] for block in chosen],
    )
    dropped = [Dropped(left.documents[place], *scores[place]) for place in order[count:]]
    # What stayed longer was better.
    return Survivors([left.documents[place] for place in kept], blocks, encoded, dropped + left.dropped), chosen
