"""A ranked list with the states of its documents at hand, for whoever asks where the query looked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from blockrank_rerank.engine.state_lookup import StateLookup
from blockrank_rerank.engine.workers import without_autocast
from blockrank_rerank.ranking.batches import Batches, Candidates
from blockrank_rerank.ranking.request import check_request, fitting_requests
from blockrank_rerank.states.pack import StatePack
from blockrank_rerank.text.blocks import Blocks
from blockrank_rerank.text.document import part_of, text_and_shift

if TYPE_CHECKING:
    from torch import Tensor

    from blockrank_rerank.engine.engine import Engine
    from blockrank_rerank.ranking.request import CheckedRequest
    from blockrank_rerank.ranking.results import RankedDocument, Ranking
    from blockrank_rerank.text.document import GivenDocument
    from blockrank_rerank.text.prompt import EncodedRequest


@dataclass(frozen=True, eq=False)
class AttendedList:
    """A ranked list with the states of its documents.

    Attributes
    ----------
    engine : Engine
        Which has made both.
    request : CheckedRequest
        What was ranked.
    encoded : EncodedRequest
        The query alone, in tokens.
    blocks : Blocks
        In which the documents were read.
    states : StatePack
        Of the blocks.
    ranking : Ranking
        All documents, best first.
    """

    engine: Engine
    request: CheckedRequest
    encoded: EncodedRequest
    blocks: Blocks
    states: StatePack
    ranking: Ranking

    @classmethod
    def of(
        cls, engine: Callable[[], Engine], lookup: StateLookup | None, query: str, documents: Iterable[GivenDocument]
    ) -> AttendedList | None:
        """Rank a list; nothing for one without documents, for which no engine is asked.

        A document whose states are known is not read. Others are read once, where their states serve every query.

        Raises
        ------
        TypeError, ValueError
            As :meth:`BlockRankReranker.rank`.
        """
        (request,) = fitting_requests([check_request((query, documents))], lambda: engine().prompt)
        if not request.texts:
            return None
        loaded = engine()
        if lookup is None and loaded.config.prompt.documents_stand_alone and not loaded.prune:
            lookup = StateLookup(None, None)
        with without_autocast():
            (batch,) = Batches([request], loaded, lookup, keep_states=True)
            (candidates,) = batch.candidates
            ((_, ranking),) = batch.rankings(loaded)
            return cls.of_ranked(loaded, lookup, candidates, ranking)

    @classmethod
    def of_ranked(
        cls, engine: Engine, lookup: StateLookup | None, candidates: Candidates, ranking: Ranking
    ) -> AttendedList:
        """Find the states of a list that was ranked; those that ranking has not left are looked up, or made anew."""
        request, blocks, pack = candidates.request, candidates.survivors.blocks, candidates.pack
        if pack is None or candidates.survivors.dropped:  # of a pruned list it has left those of the survivors alone
            blocks, pack = _read(engine, lookup, request)
        return cls(engine, request, engine.prompt.encode(request.query, []), blocks, pack, ranking)

    def block_of(self, ranked: RankedDocument) -> int:
        """The block whose scores a document has."""
        bounds = zip(self.blocks.owners, self.blocks.bounds, strict=True)
        return next(
            block
            for block, (owner, passage) in enumerate(bounds)
            if owner == ranked.index and ranked.passage in (None, passage)
        )

    def token_attention(self) -> list[Tensor]:
        """Compute for each block where in it the query looked, as :meth:`Engine.token_attention` gives it."""
        with without_autocast():
            return self.engine.token_attention(self.encoded, self.states)

    def token_spans(self, blocks: Sequence[int]) -> list[list[tuple[int, int]]]:
        """For each of some blocks the code points of its tokens, in its document's text as given.

        Those of title and template lie outside the block's bounds.
        """
        ids, found = self.states.ids, []
        texts = {block: self.blocks.texts[block] for block in blocks}
        spans = self.engine.prompt.document_spans(texts, (len(ids[block]) for block in blocks))
        for block, tokens in zip(blocks, spans, strict=True):
            bounds = self.blocks.bounds[block]
            shift = text_and_shift(part_of(self.request.plain[self.blocks.owners[block]], bounds))[1] + bounds[0]
            found.append([(start + shift, end + shift) for start, end in tokens])
        return found


def _read(engine: Engine, lookup: StateLookup | None, request: CheckedRequest) -> tuple[Blocks, StatePack]:
    """States that ranking has not left: of a list that it read in passing, or whose documents depend on the query."""
    blocks, tokenised = Blocks.of(request.query, request.plain, request.texts, engine.prompt)
    if lookup is not None:
        read = partial(engine.document_states, dtype=engine.dtype, tokenised=tokenised)
        return blocks, StatePack([*lookup.of_list(engine, request.digests).get(blocks.texts, read)])
    encoded = engine.prompt.encode(request.query, blocks.texts, tokenised)
    return blocks, StatePack([*engine.states_of(encoded, engine.dtype)])
