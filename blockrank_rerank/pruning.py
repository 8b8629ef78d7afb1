from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from blockrank_rerank.blocks import Blocks, tied
from blockrank_rerank.prompt import EncodedRequest
from blockrank_rerank.scoring import raw_score
from blockrank_rerank.staged_model import Begun

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

    ``begun`` is what the layers that dropped them made of the others, where the later layers go on from there.
    """

    documents: list[int]
    blocks: Blocks
    encoded: EncodedRequest
    dropped: list[Dropped]
    begun: Begun | None = None


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
    keeps = engine.keeps_begun(encoded)
    for layer, count in engine.prune:
        if len(left.documents) > count:
            left = _keep_best(*_scored(engine.stage(layer), left, keeps), count)
    return left


def _scored(stage: Engine, left: Survivors, keeps: bool) -> tuple[Survivors, list[tuple[float, bool]]]:
    """Raw score of each document's best block, and whether that was cut; copies tie."""
    if keeps:
        lse, begun = stage.scores_and_states(left.encoded, left.begun)
        left = left._replace(begun=begun)
    else:
        lse = stage.document_scores([left.encoded])[0]
    raw = tied(raw_score(lse).tolist(), left.encoded.documents)
    return left, [(raw[block], left.encoded.truncated[block]) for block in left.blocks.best(raw)]


def _keep_best(left: Survivors, scores: Sequence[tuple[float, bool]], count: int) -> Survivors:
    order = sorted(range(len(scores)), key=lambda place: -scores[place][0])
    kept = sorted(order[:count])
    blocks, chosen = left.blocks.select(kept)
    encoded = replace(
        left.encoded,
        documents=[left.encoded.documents[block] for block in chosen],
        truncated=[left.encoded.truncated[block] for block in chosen],
    )
    dropped = [Dropped(left.documents[place], *scores[place]) for place in order[count:]]
    begun = left.begun and left.begun.of_documents(chosen)
    # What stayed longer was better.
    return Survivors([left.documents[place] for place in kept], blocks, encoded, dropped + left.dropped, begun)
