"""A list read by a deadline: known documents first, then early layers for all, then the best of them to the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from blockrank_rerank.engine.batch import Batch
from blockrank_rerank.engine.machine_profile import machine_profile
from blockrank_rerank.engine.pruning import Dropped, Survivors, final_states
from blockrank_rerank.engine.workers import stop_if_cancelled
from blockrank_rerank.errors import DocumentError
from blockrank_rerank.model.scores import Lse, raw_score
from blockrank_rerank.model.stages import HiddenStates
from blockrank_rerank.ranking.batches import CHARACTERS_PER_TOKEN, LOOKUP_BATCH, Candidates, ranked
from blockrank_rerank.ranking.clock import Clock
from blockrank_rerank.ranking.request import CheckedRequest
from blockrank_rerank.states.pack import PassingStates
from blockrank_rerank.text.blocks import Blocks
from blockrank_rerank.text.document import Source
from blockrank_rerank.text.prompt import EncodedRequest, TokenisedBlocks

if TYPE_CHECKING:
    from blockrank_rerank.engine.engine import Engine
    from blockrank_rerank.engine.state_lookup import StateLookup
    from blockrank_rerank.ranking.results import Ranking
    from blockrank_rerank.states.document_states import DocumentStates

T = TypeVar("T")

EARLY_LAYERS = 1
"""Layers after which documents are compared where time does not suffice for all."""

EARLY_SHARE = 2 / 3
"""Share of the time that may go into them: less helps lists in a good order alone, more none (dev/LOG.md)."""

MOST = 1 / 2
"""Share of the time left that one group takes at most: what a plan did not foresee, the next ones make good."""

LAST = 4 / 5
"""The same of a group after which there would be no time for another that is worth a pass."""

WORTH = 4
"""A pass is worth its fixed time where it takes so many times as much (dev/LOG.md)."""

NEXT = 1 / 3
"""Share of the time left for which documents are tokenised: how many tokens they have shows only then."""

RESULT_S = 30e-6
"""Seconds to keep for a document's result, once the reading has ended."""


@dataclass(eq=False)
class Block:
    """A document or passage, and how far it was read.

    ``raw_score`` is that of the last of the ``layers`` that read it, which made ``hidden`` of it; ``column`` is its
    place among the log-sum-exps of blocks that were read to the end.
    """

    document: int
    text: str
    bounds: tuple[int, int]
    source: Source
    ids: Sequence[int] = ()
    truncated: bool = False
    layers: int = 0
    raw_score: float = 0.0
    hidden: Tensor | None = None
    column: int | None = None


class PartialReading:
    """One list that is read as far as its clock allows.

    A group takes a part of the time left, so that a wrong estimate is made good by the groups that follow, and
    the last ones before the deadline are small. None begins that the time left does not suffice for.

    Parameters
    ----------
    request : CheckedRequest
        With at least one document.
    engine : Engine
        Of a model that passes :func:`check_can_stop`.
    lookup : StateLookup, optional
        Knows states of some documents, and keeps those that are read to the end.
    clock : Clock
        Of the whole call.
    """

    def __init__(self, request: CheckedRequest, engine: Engine, lookup: StateLookup | None, clock: Clock) -> None:
        self._request, self._engine, self._clock = request, engine, clock
        self._lookup = None if lookup is None else lookup.of_list(engine, request.digests)
        self._profile, self._layers = machine_profile(engine), engine.config.scoring_layer
        self._alone = engine.prompt.encode(request.query, [])
        self._ends: dict[int, HiddenStates] = {}
        self._lse: list[Lse] = []
        self._blocks: dict[int, list[Block]] = {}
        self._unread: deque[int] = deque()
        self._tokenised: deque[Block] = deque()
        self._tokens_per_character = 1 / CHARACTERS_PER_TOKEN
        self._slowness, self._has_read = 1.0, False
        """Seconds that groups took, of one that the profile foresees; and whether any group has shown it."""

    def ranking(self) -> Ranking:
        """Read, and rank every document by what is known of it then."""
        self._unread.extend(self._read_known())
        self._tokenise(self._layers)
        # An encoder in 8 bits computes all layers at one time.
        if self._layers > EARLY_LAYERS and self._engine.backbone.encoder is None:
            self._read_through(self._layers, lambda: self._left >= self._seconds_for_all)
            rest = self._left * (1 - EARLY_SHARE)
            self._tokenise(EARLY_LAYERS)
            self._read_through(EARLY_LAYERS, lambda: self._left > rest and self._has_room)
            self._read_on()
        self._read_through(self._layers, lambda: True)
        if self._lookup is not None:
            blocks = [block.text for blocks in self._blocks.values() for block in blocks]
            self._lookup.check_store(blocks)
        return self._ranked()

    @property
    def _left(self) -> float:
        return self._clock.left - RESULT_S * len(self._request.texts)

    @property
    def _has_room(self) -> bool:
        """Whether more hidden states may be kept for later layers."""
        kept = (len(block.ids) for blocks in self._blocks.values() for block in blocks if block.hidden is not None)
        return self._engine.budget.holds_hidden(sum(kept))

    @property
    def _has_cache(self) -> bool:
        return self._lookup is not None and self._lookup.cache is not None

    @property
    def _seconds_for_all(self) -> float:
        """What it takes to read to the end whatever no layer has read, by estimate."""
        characters = sum(len(self._request.texts[document]) for document in self._unread)
        tokens = sum(len(block.ids) for block in self._tokenised)
        seconds = characters * self._character_s(self._layers) + self._profile.read_s(tokens, self._layers)
        return self._slowness * seconds

    def _character_s(self, layers: int) -> float:
        return self._profile.character_s + layers * self._profile.token_layer_s * self._tokens_per_character

    def _read_known(self) -> Sequence[int]:
        """Score documents whose states are known, and return the others."""
        request, lookup, engine = self._request, self._lookup, self._engine
        if request.prepared is not None:
            request.prepared.check_made_by(engine.fingerprint)
            self._score_states(self._take_up(request.prepared.blocks, "prepared"), request.prepared.states)
            return []
        if lookup is None:
            return range(len(request.texts))
        lookup.refresh()
        known = [index for index, text in enumerate(request.texts) if lookup.knows(text)]
        blocks, _ = self._cut(known, lambda text: True)
        self._score_looked_up(self._take_up(blocks))
        return sorted({*range(len(request.texts))} - {*known})

    def _read_through(self, layers: int, goes_on: Callable[[], bool]) -> None:
        """Let the first layers read documents that none has read, in their order."""
        while self._left > 0 and goes_on():
            if not self._tokenised:
                self._tokenise(layers)
            if group := self._group(self._tokenised, layers):
                self._read(group, layers)
            elif not self._unread:
                return

    def _read_on(self) -> None:
        """Let the other layers read what early ones have read, the best by their scores first.

        Half of the time goes into the layers up to the middle one, after which the best of the best are known better.
        """
        begun, middle = [EARLY_LAYERS], self._layers // 2
        pass_s = self._profile.read_s(self._alone.num_tokens, middle)
        is_worth_it = middle > EARLY_LAYERS and MOST * self._left >= WORTH * pass_s
        if is_worth_it and (group := self._group(self._best_first(EARLY_LAYERS), middle)):
            self._read(group, middle)
            begun = [middle, EARLY_LAYERS]
        for layers in begun:
            waiting = self._best_first(layers)
            while group := self._group(waiting, self._layers):
                self._read(group, self._layers)

    def _best_first(self, layers: int) -> deque[Block]:
        """Blocks that so many layers have read, those of the best documents first."""
        begun = {document: best for document, best in self._best().items() if best.layers == layers}
        order = sorted(begun, key=lambda document: -begun[document].raw_score)
        return deque(block for document in order for block in self._blocks[document] if block.layers == layers)

    def _cut(self, documents: Sequence[int], fits: Callable[[str], bool]) -> tuple[Blocks, TokenisedBlocks]:
        request = self._request
        plain, texts = [request.plain[d] for d in documents], [request.texts[d] for d in documents]
        try:
            blocks, tokenised = Blocks.of(request.query, plain, texts, self._engine.prompt, fits)
        except DocumentError as error:
            raise DocumentError(documents[error.index], error.reason) from error
        return replace(blocks, owners=[documents[owner] for owner in blocks.owners]), tokenised

    def _tokenise(self, layers: int) -> None:
        """Turn documents that so many layers are to read into blocks; those whose states turn out known are scored."""
        left = self._left / (self._slowness * self._character_s(layers))
        documents = _taken(self._unread, lambda document: len(self._request.texts[document]), NEXT * left, left)
        blocks, tokenised = self._cut(documents, lambda text: False)
        taken = self._take_up(blocks)
        if self._lookup is not None:
            self._score_looked_up([block for block in taken if block.source != "read"])
            taken = [block for block in taken if block.source == "read"]
        encoded = self._engine.prompt.encode(self._request.query, [block.text for block in taken], tokenised)
        for block, ids, truncated in zip(taken, encoded.documents, encoded.truncated, strict=True):
            block.ids, block.truncated = ids, truncated
        if characters := sum(len(block.text) for block in taken):
            self._tokens_per_character = sum(len(block.ids) for block in taken) / characters
        self._tokenised.extend(taken)

    def _take_up(self, blocks: Blocks, source: Source | None = None) -> list[Block]:
        """Blocks of which nothing is read yet."""
        found = []
        for text, owner, bounds in zip(blocks.texts, blocks.owners, blocks.bounds, strict=True):
            where = source or ("read" if self._lookup is None else self._lookup.source(text))
            found.append(Block(owner, text, bounds, where))
            self._blocks.setdefault(owner, []).append(found[-1])
        return found

    def _score_looked_up(self, blocks: Sequence[Block]) -> None:
        lookup, engine = self._lookup, self._engine
        if lookup is not None:
            texts = [block.text for block in blocks]
            read = partial(engine.document_states, dtype=engine.dtype)
            self._score_states(blocks, lookup.get(texts, read, LOOKUP_BATCH))

    def _score_states(self, blocks: Sequence[Block], states: Iterable[DocumentStates]) -> None:
        """Score blocks by their states, as many as come in time."""
        if not blocks or self._left <= 0:
            return
        passing = PassingStates(self._in_time(states))
        (lse,) = self._engine.score(Batch([self._alone], [passing]))
        came = blocks[: len(passing.ids)]
        for block, ids, truncated in zip(came, passing.ids, passing.truncated, strict=True):
            block.ids, block.truncated = ids, truncated
        self._score(came, lse, self._layers)

    def _in_time(self, states: Iterable[DocumentStates]) -> Iterator[DocumentStates]:
        for number, document in enumerate(states):
            if number and self._left <= self._profile.read_s(0, self._layers):
                return
            yield document

    def _group(self, waiting: deque[Block], layers: int) -> list[Block]:
        """Take blocks from the front of a queue for a part of the time left."""
        if not waiting:
            return []
        left, more = self._left / self._slowness, layers - waiting[0].layers
        pass_s = self._profile.read_s(self._alone.num_tokens, more)
        tokens = (left - pass_s) / (more * self._profile.token_layer_s)
        is_last = (1 - MOST) * left < WORTH * pass_s
        share = LAST if is_last and self._has_read else MOST
        return _taken(waiting, lambda block: len(block.ids), share * tokens, tokens)

    def _read(self, group: Sequence[Block], layers: int) -> None:
        """Let layers read blocks that as many have read already, and correct the estimates by the clock."""
        stop_if_cancelled()
        start, engine = time.perf_counter(), self._engine
        encoded = replace(
            self._alone, documents=[[*block.ids] for block in group], truncated=[block.truncated for block in group]
        )
        done = group[0].layers
        if engine.backbone.encoder is None:
            states = [block.hidden for block in group if block.hidden is not None]
            begin = replace(self._ends[done], documents=states) if states else None
            lse, hidden = engine.stage(layers).read(Batch([encoded], hidden=begin))
            self._keep(group, encoded, hidden)
        elif self._has_cache:
            made = [*engine.states_of(encoded, engine.dtype)]
            self._put(group, made)
            (lse,) = engine.score(Batch([self._alone], [PassingStates(iter(made))]))
        else:
            (lse,) = engine.score(Batch([encoded]))
        self._score(group, lse, layers)
        foreseen = self._profile.read_s(encoded.num_tokens, layers - done)
        self._slowness, self._has_read = (self._slowness + (time.perf_counter() - start) / foreseen) / 2, True

    def _keep(self, group: Sequence[Block], encoded: EncodedRequest, hidden: HiddenStates) -> None:
        """Keep what later layers go on from, or what other queries read of documents that were read to the end."""
        if hidden.layers < self._layers:
            self._ends[hidden.layers] = replace(hidden, documents=[])
            for block, states in zip(group, hidden.documents, strict=True):
                block.hidden = states
        elif self._has_cache:
            self._put(group, final_states(self._engine, encoded, hidden))

    def _put(self, group: Sequence[Block], made: Sequence[DocumentStates]) -> None:
        if self._lookup is not None:
            for block, states in zip(group, made, strict=True):
                self._lookup.keep(block.text, states)

    def _score(self, blocks: Sequence[Block], lse: Lse, layers: int) -> None:
        if layers == self._layers:
            columns = sum(part.documents.shape[-1] for part in self._lse)
            self._lse.append(lse)
            for column, block in enumerate(blocks, start=columns):
                block.column, block.hidden = column, None
        for block, raw in zip(blocks, raw_score(lse.documents).tolist(), strict=True):
            block.layers, block.raw_score = layers, raw

    def _ranked(self) -> Ranking:
        whole = [d for d in sorted(self._blocks) if all(block.column is not None for block in self._blocks[d])]
        blocks = [block for document in whole for block in self._blocks[document]]
        owners = [number for number, document in enumerate(whole) for _ in self._blocks[document]]
        read = Blocks([block.text for block in blocks], owners, [block.bounds for block in blocks])
        found = Survivors(whole, read, self._alone, self._others({*whole}))
        ids, truncated = [tuple(block.ids) for block in blocks], [block.truncated for block in blocks]
        candidates = Candidates(self._request, found, ids, truncated, sources=[block.source for block in blocks])
        return ranked(candidates, self._joined().select([block.column or 0 for block in blocks]), self._engine)

    def _joined(self) -> Lse:
        if self._lse:
            return Lse.of_groups(self._lse)
        # No time for a single document.
        device = self._engine.device
        nothing = torch.zeros(1, 1, dtype=torch.float32, device=device) if self._engine.config.abstention else None
        return Lse(torch.zeros(1, 1, 0, dtype=torch.float32, device=device), nothing)

    def _others(self, whole: set[int]) -> list[Dropped]:
        """Documents that were not read to the end, those of more layers first and then the better ones."""
        read = {document: best for document, best in self._best().items() if best.layers}
        least = min((best.raw_score for best in read.values()), default=0.0)
        others = []
        for document in range(len(self._request.texts)):
            if document not in whole:
                tokens = sum(len(block.ids) for block in self._blocks.get(document, []))
                best = read.get(document)
                scored = (best.raw_score, best.truncated, tokens, best.layers) if best else (least, False, tokens, 0)
                others.append(Dropped(document, *scored))
        return sorted(others, key=lambda other: (-other.layers, -other.raw_score))

    def _best(self) -> dict[int, Block]:
        """Each document's best block, of those that fewest layers have read: scores of two layers do not compare."""
        return {
            document: max(blocks, key=lambda block: (-block.layers, block.raw_score))
            for document, blocks in self._blocks.items()
        }


def _taken(queue: deque[T], size: Callable[[T], int], room: float, most: float) -> list[T]:
    """Take from the front of a queue what there is room for; at least one, without those that are above ``most``."""
    taken: list[T] = []
    while queue and (not taken or size(queue[0]) <= room):
        if taken or size(queue[0]) <= most:
            taken.append(queue[0])
            room -= size(queue[0])
        queue.popleft()
    return taken
