"""Early layers drop documents of a list, and the survivors go on from there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from blockrank_rerank.engine.batch import Batch
from blockrank_rerank.model.scores import Lse, raw_score
from blockrank_rerank.model.stages import HiddenStates
from blockrank_rerank.states.document_states import DocumentStates, compress
from blockrank_rerank.text.blocks import Blocks, with_copies_tied
from blockrank_rerank.text.prompt import EncodedRequest, TokenisedBlocks

if TYPE_CHECKING:
    from blockrank_rerank.engine.engine import Engine
    from blockrank_rerank.engine.state_lookup import Reader


@dataclass(frozen=True)
class Dropped:
    """A document that an early layer's scores left out; ``raw_score`` is of that layer, the last of ``layers``."""

    document: int
    raw_score: float
    truncated: bool
    tokens: int
    layers: int


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
            lse, found = _read(engine, layer, found)
            found = _best(found, _scores(lse, found), count, layer)
    return found


def survivors_beside(
    engine: Engine, query: str, blocks: Blocks, known: Sequence[bool], tokenised: TokenisedBlocks
) -> tuple[Survivors, Reader]:
    """As :func:`survivors`, of a list in which states of some blocks are known; they go on as states.

    Documents whose states are known cost nothing to be read: they are not dropped, and do not count.

    Returns
    -------
    Survivors
        With a query alone, for which states stand for the documents.
    Reader
        Of the texts without known states, which goes on from where the early layers ended.
    """
    found = Survivors(sorted(set(blocks.owners)), blocks, engine.prompt.encode(query, []))
    unknown = sorted({owner for owner, is_known in zip(blocks.owners, known, strict=True) if not is_known})
    states: dict[str, DocumentStates] = {}
    if engine.prune and len(unknown) > engine.prune[-1][1]:
        own, _ = blocks.select(unknown)
        left = survivors(engine, own, engine.prompt.encode(query, own.texts, tokenised))
        states |= zip(left.blocks.texts, _states(engine, left), strict=True)
        dropped = [replace(one, document=unknown[one.document]) for one in left.dropped]
        remaining = sorted({*found.remaining} - {one.document for one in dropped})
        found = replace(found, remaining=remaining, blocks=blocks.select(remaining)[0], dropped=dropped)

    def read(texts: Sequence[str]) -> Iterator[DocumentStates]:
        rest = engine.document_states([text for text in texts if text not in states], engine.dtype, tokenised)
        return (states[text] if text in states else next(rest) for text in texts)

    return found, read


@torch.inference_mode()
def final_states(engine: Engine, encoded: EncodedRequest, hidden: HiddenStates) -> list[DocumentStates]:
    """What any query reads of a request's documents, of which ``hidden`` is what all layers have made."""
    cases = zip(encoded.documents, encoded.truncated, hidden.documents, strict=True)
    return [
        DocumentStates(tuple(ids), truncated, compress(engine.backbone.head_states(states), engine.dtype))
        for ids, truncated, states in cases
    ]


def _states(engine: Engine, found: Survivors) -> Iterable[DocumentStates]:
    """Read survivors to the end, from where they are if that is kept."""
    if found.hidden is None:
        return engine.document_states(found.blocks.texts, engine.dtype)
    _, hidden = engine.stage(engine.config.scoring_layer).read(Batch([found.encoded], hidden=found.hidden))
    return final_states(engine, found.encoded, hidden)


def _read(engine: Engine, layer: int, found: Survivors) -> tuple[Lse, Survivors]:
    """Scores after a layer, and the list with its hidden states there, where later layers can go on from them."""
    stage, batch = engine.stage(layer), Batch([found.encoded], hidden=found.hidden)
    if engine.documents_are_independent and engine.budget.holds_hidden(found.encoded.num_tokens):
        lse, hidden = stage.read(batch)
        return lse, replace(found, hidden=hidden)
    return stage.score(batch)[0], found


def _scores(lse: Lse, found: Survivors) -> list[tuple[float, bool, int]]:
    """Raw score of each document's best block, whether that was cut, and the document's tokens; copies tie."""
    raw, tokens = with_copies_tied(raw_score(lse.documents).tolist(), found.encoded.documents), Counter[int]()
    for owner, ids in zip(found.blocks.owners, found.encoded.documents, strict=True):
        tokens[owner] += len(ids)
    best = enumerate(found.blocks.best(raw))
    return [(raw[block], found.encoded.truncated[block], tokens[owner]) for owner, block in best]


def _best(found: Survivors, scores: Sequence[tuple[float, bool, int]], count: int, layer: int) -> Survivors:
    """Keep so many documents of the best scores."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index][0])
    best = sorted(order[:count])
    blocks, chosen = found.blocks.select(best)
    dropped = [Dropped(found.remaining[index], *scores[index], layer) for index in order[count:]]
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
