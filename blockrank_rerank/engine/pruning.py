"""Early layers drop documents of a list, and the survivors go on from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from blockrank_rerank.engine.batch import Batch
from blockrank_rerank.model.scores import Lse, raw_score
from blockrank_rerank.model.stages import HiddenStates
from blockrank_rerank.text.blocks import Blocks, with_copies_tied
from blockrank_rerank.text.prompt import EncodedRequest

if TYPE_CHECKING:
    from blockrank_rerank.engine.engine import Engine


@dataclass(frozen=True)
class Dropped:
    """A document that an early layer's scores left out; ``raw_score`` is of that layer."""

    document: int
    raw_score: float
    truncated: bool


@dataclass(frozen=True, eq=False)
class Survivors:
    """What remains of a request: its documents, their blocks and tokens, and those dropped, best first.

    ``hidden`` is what the early layers made of them, where the later ones can go on from there.
    """

    remaining: list[int]
    blocks: Blocks
    encoded: EncodedRequest
    dropped: list[Dropped] = field(default_factory=list)
    hidden: HiddenStates | None = None


def survivors(engine: Engine, blocks: Blocks, encoded: EncodedRequest) -> Survivors:
    """Read a request up to the engine's pruning layers, and return what they leave of it."""
    found = Survivors(sorted(set(blocks.owners)), blocks, encoded)
    for layer, count in engine.prune:
        if len(found.remaining) > count:
            lse, hidden = _read(engine, layer, found)
            found = _best(replace(found, hidden=hidden), _scores(lse, found), count)
    return found


def _read(engine: Engine, layer: int, found: Survivors) -> tuple[Lse, HiddenStates | None]:
    """Scores after a layer, and hidden states where no document changes another and there is room for them."""
    stage, batch = engine.stage(layer), Batch([found.encoded], hidden=found.hidden)
    if engine.documents_are_independent and engine.budget.holds_hidden(found.encoded.num_tokens):
        return stage.read(batch)
    return stage.score(batch)[0], None


def _scores(lse: Lse, found: Survivors) -> list[tuple[float, bool]]:
    """Raw score of each document's best block, and whether that was cut; copies tie."""
    raw = with_copies_tied(raw_score(lse.documents).tolist(), found.encoded.documents)
    return [(raw[block], found.encoded.truncated[block]) for block in found.blocks.best(raw)]


def _best(found: Survivors, scores: Sequence[tuple[float, bool]], count: int) -> Survivors:
    """Keep so many documents of the best scores."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index][0])
    best = sorted(order[:count])
    blocks, chosen = found.blocks.select(best)
    dropped = [Dropped(found.remaining[index], *scores[index]) for index in order[count:]]
    return Survivors(
        remaining=[found.remaining[index] for index in best],
        blocks=blocks,
        encoded=replace(
            found.encoded,
            documents=[found.encoded.documents[block] for block in chosen],
            truncated=[found.encoded.truncated[block] for block in chosen],
        ),
        # What stayed longer was better.
        dropped=dropped + found.dropped,
        hidden=found.hidden and found.hidden.select(chosen),
    )
