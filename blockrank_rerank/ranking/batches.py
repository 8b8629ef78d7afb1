"""Checked requests in, batches that fit the engine's budget out, and a batch's scores to rankings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blockrank_rerank.engine.batch import Batch
from blockrank_rerank.engine.pruning import Survivors, survivors, survivors_beside
from blockrank_rerank.engine.workers import stop_if_cancelled
from blockrank_rerank.model.scores import Lse, answerable, raw_score, scores
from blockrank_rerank.ranking.request import CheckedRequest, of_request
from blockrank_rerank.ranking.results import RankedDocument, Ranking
from blockrank_rerank.states.pack import PassingStates, StatePack
from blockrank_rerank.text.blocks import Blocks, first_copies, with_copies_tied
from blockrank_rerank.text.document import Source, document_id, given_text
from blockrank_rerank.text.prompt import EncodedRequest

if TYPE_CHECKING:
    from blockrank_rerank.engine.engine import Engine
    from blockrank_rerank.engine.state_lookup import StateLookup
    from blockrank_rerank.states.prepared import PreparedDocuments

LOOKUP_BATCH = 64
"""Documents of a long list whose states are looked up at a time."""

CHARACTERS_PER_TOKEN = 4
"""Of English, about."""

UNREADABLE_SHARE = 0.25
"""Share of unknown tokens from which a text counts as not read: some stray symbols change nothing."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """A request's documents in tokens, and what stands for them where they need not be read.

    ``ids``, ``truncated`` and ``sources`` belong to the blocks of the survivors; without ``sources`` all are read.
    """

    request: CheckedRequest
    survivors: Survivors
    ids: Sequence[tuple[int, ...]]
    truncated: Sequence[bool]
    states: StatePack | PassingStates | None = None
    sources: Sequence[Source] = ()

    @property
    def encoded(self) -> EncodedRequest:
        """What the model reads."""
        return self.survivors.encoded

    @property
    def num_tokens(self) -> int:
        """Tokens of the query and of all documents, read or not; of states that are read in passing, once they were."""
        dropped = sum(document.tokens for document in self.survivors.dropped)
        return self.encoded.num_tokens + dropped + (sum(map(len, self.ids)) if self.states is not None else 0)

    @property
    def goes_alone(self) -> bool:
        """Whether they share a forward pass with no other request."""
        return isinstance(self.states, PassingStates) or self.survivors.hidden is not None

    @property
    def pack(self) -> StatePack | None:
        """States that can be joined with those of others."""
        return self.states if isinstance(self.states, StatePack) else None


@dataclass
class RequestBatch:
    """Requests that share a forward pass, and their numbers in what the caller gave."""

    numbers: list[int] = field(default_factory=list)
    candidates: list[Candidates] = field(default_factory=list)
    tokens_to_read: int = 0
    num_tokens: int = 0
    """Of the requests that are ranked, read or not."""
    state_tokens: dict[int, int] = field(default_factory=dict)
    """Tokens of every different set of states, by identity: queries over the same documents join them once."""

    def has_room(self, candidates: Candidates, budget_tokens: int) -> bool:
        """Whether one more request, of the same kind, fits the budget: in tokens to read, and in states to join."""
        first, pack = self.candidates[0], candidates.pack
        if first.goes_alone or candidates.goes_alone or (first.pack is None) != (pack is None):
            return False
        if pack is not None and id(pack) not in self.state_tokens:
            joined = sum(self.state_tokens.values()) + pack.num_tokens
            if joined > budget_tokens:
                return False
        return self.tokens_to_read + candidates.encoded.num_tokens <= budget_tokens

    def add(self, number: int, candidates: Candidates) -> None:
        """Take up one more request."""
        if (pack := candidates.pack) is not None:
            self.state_tokens[id(pack)] = pack.num_tokens
        self.numbers.append(number)
        self.candidates.append(candidates)
        self.tokens_to_read += candidates.encoded.num_tokens

    def rankings(self, engine: Engine) -> Iterator[tuple[int, Ranking]]:
        """Score the batch once, and yield the number and the whole ranking of each request, best document first."""
        batch = Batch(
            requests=[candidates.encoded for candidates in self.candidates],
            states=[candidates.states for candidates in self.candidates if candidates.states is not None],
            hidden=self.candidates[0].survivors.hidden,
        )
        for number, candidates, lse in zip(self.numbers, self.candidates, engine.score(batch), strict=True):
            ranking = ranked(candidates, lse, engine)
            self.num_tokens += candidates.num_tokens
            yield number, ranking
        self.candidates.clear()


class Batches:
    """Consecutive requests of one kind whose tokens fit the budget together, each encoded when its turn comes.

    Parameters
    ----------
    requests : sequence of CheckedRequest
        In the order in which they are wanted; those without documents are in no batch.
    engine : Engine
        Encodes them.
    lookup : StateLookup, optional
        Knows states of some documents.
    keep_states : bool
        Whether a caller wants the states of whole lists that are looked up, whatever their size.
    """

    def __init__(
        self,
        requests: Sequence[CheckedRequest],
        engine: Engine,
        lookup: StateLookup | None = None,
        *,
        keep_states: bool = False,
    ) -> None:
        self._requests, self._engine, self._lookup, self._keep_states = requests, engine, lookup, keep_states

    def __iter__(self) -> Iterator[RequestBatch]:
        batch = RequestBatch()
        for number, request in enumerate(self._requests):
            if not request.texts:
                continue
            stop_if_cancelled()
            with of_request(number, len(self._requests)):
                candidates = self._encode(request)
            if batch.numbers and not batch.has_room(candidates, self._engine.budget.tokens):
                yield batch
                batch = RequestBatch()
            batch.add(number, candidates)
            if candidates.goes_alone:
                del candidates  # its states must not wait beside those of the next list
                yield batch
                batch = RequestBatch()
        if batch.numbers:
            yield batch

    def _encode(self, request: CheckedRequest) -> Candidates:
        if request.prepared is not None:
            return self._of_prepared(request, request.prepared)
        if self._lookup is not None:
            return self._of_known(request, self._lookup)
        prompt = self._engine.prompt
        blocks, tokenised = Blocks.of(request.query, request.plain, request.texts, prompt)
        encoded = prompt.encode(request.query, blocks.texts, tokenised)
        found = survivors(self._engine, blocks, encoded)
        ids = [tuple(document) for document in found.encoded.documents]
        return Candidates(request, found, ids, found.encoded.truncated)

    def _of_prepared(self, request: CheckedRequest, prepared: PreparedDocuments) -> Candidates:
        prepared.check_made_by(self._engine.fingerprint)
        found = Survivors([*range(len(request.given))], prepared.blocks, self._engine.prompt.encode(request.query, []))
        pack = prepared.pack
        sources: list[Source] = ["prepared"] * len(prepared.blocks.texts)
        return Candidates(request, found, pack.ids, pack.truncated, pack, sources)

    def _of_known(self, request: CheckedRequest, lookup: StateLookup) -> Candidates:
        """Documents whose states are looked up, and computed where they are not known."""
        engine, states = self._engine, lookup.of_list(self._engine, request.digests)
        states.refresh()
        blocks, tokenised = Blocks.of(request.query, request.plain, request.texts, engine.prompt, states.knows)
        states.check_store(blocks.texts)
        source_of = {text: states.source(text) for text in blocks.texts}
        known = [source_of[text] != "read" for text in blocks.texts]
        found, read = survivors_beside(engine, request.query, blocks, known, tokenised)
        texts = found.blocks.texts
        sources = [source_of[text] for text in texts]
        joins = engine.budget.max_memory is None and not self._reads_in_passing(found.blocks)
        if joins or self._keep_states:
            pack = StatePack(list(states.get(texts, read)))
            return Candidates(request, found, pack.ids, pack.truncated, pack, sources)
        passing = PassingStates(states.get(texts, read, LOOKUP_BATCH))
        return Candidates(request, found, passing.ids, passing.truncated, passing, sources)

    def _reads_in_passing(self, blocks: Blocks) -> bool:
        """Whether states are better not joined: so long a list would not share a pass with others anyway."""
        tokens = sum(map(len, blocks.texts)) // CHARACTERS_PER_TOKEN
        return self._engine.documents_are_independent and tokens > self._engine.budget.tokens


def ranked(candidates: Candidates, lse: Lse, engine: Engine) -> Ranking:
    """Every document, best first; the sort is stable, so ties keep the input order."""
    given, plain, found = candidates.request.given, candidates.request.plain, candidates.survivors
    unreadable = _unreadable(candidates, engine)
    best = found.blocks.best(with_copies_tied(raw_score(lse.documents).tolist(), candidates.ids))
    values = scores(lse.select(best), engine.config, engine.backbone.sharpness, engine.probability_map)
    sources = first_copies([candidates.ids[block] for block in best])
    read = [
        RankedDocument(
            index=index,
            score=values.share[source],
            raw_score=values.raw[source],
            probability=lowered(values.probability[source], unreadable[block]),
            text=given_text(plain[index]),
            document=given[index],
            id=document_id(given[index]),
            truncated=candidates.truncated[block],
            passage=found.blocks.passage(block),
            unreadable=unreadable[block],
            served_from=candidates.sources[block] if candidates.sources else "read",
        )
        for index, block, source in zip(found.remaining, best, sources, strict=True)
    ]
    unread = [
        RankedDocument(
            index=dropped.document,
            score=0.0,
            raw_score=dropped.raw_score,
            text=given_text(plain[dropped.document]),
            document=given[dropped.document],
            id=document_id(given[dropped.document]),
            truncated=dropped.truncated,
            pruned=True,
            layers_read=dropped.layers,
        )
        for dropped in found.dropped
    ]
    different = [values.raw[source] for source in {*sources}]
    return Ranking(
        sorted(read, key=lambda document: -document.score) + unread, None if unread else _answerable(different, engine)
    )


def _answerable(raw: Sequence[float], engine: Engine) -> float | None:
    """Whether a list holds an answer, by the raw scores that it was learnt of: a tuning's are others."""
    numbers = engine.config.answerability
    return None if numbers is None or engine.backbone.tuning is not None or not raw else answerable(raw, numbers)


def _unreadable(candidates: Candidates, engine: Engine) -> list[float]:
    """For each block the share of its tokens, or the query's if larger, that stand for text nobody has read; warns."""
    prompt = engine.prompt
    if prompt.unknown_id is None:
        return [0.0] * len(candidates.ids)
    query = prompt.unreadable_share(candidates.encoded.query, is_query=True)
    shares = [max(query, prompt.unreadable_share(ids)) for ids in candidates.ids]
    count = sum(share > UNREADABLE_SHARE for share in shares)
    if count:
        what = "the query" if query > UNREADABLE_SHARE else f"{count} of {len(shares)} documents or passages"
        warnings.warn(
            f"more than {UNREADABLE_SHARE:.0%} of {what} is text that the model's tokenizer cannot read, such as other "
            "scripts or words of more than 100 characters: it matches nothing, and a result's probability is lowered "
            "by its share of such text, `unreadable`; use a model that reads it",
            stacklevel=6,  # whoever called rank
        )
    return shares


def lowered(probability: float | None, unreadable: float) -> float | None:
    """A probability that is not high where much of the text was not read."""
    return probability if probability is None or unreadable <= UNREADABLE_SHARE else probability * (1 - unreadable)
