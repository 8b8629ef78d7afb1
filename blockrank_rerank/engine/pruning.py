from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from blockrank_rerank.model.scores import raw_score
from blockrank_rerank.text.blocks import Blocks, tied
from blockrank_rerank.text.prompt import EncodedRequest

if TYPE_CHECKING:
    from blockrank_rerank.engine.engine import Engine


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
