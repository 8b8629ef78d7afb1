"""One forward pass of a backbone, as the attention of its layers sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from blockrank_kernels import LastRows
from torch import Tensor

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.model.layout import Layout, RequestBounds
from blockrank_rerank.model.scores import LayerReading, Lse
from blockrank_rerank.model.tuning import Tuning
from blockrank_rerank.states.pack import StatePack


@dataclass
class Pass:
    """One forward pass, as the attention function sees it.

    ``stop`` says whether the pass ends inside the scoring layer; training of a language model goes on.
    Where the scoring layer is one of the model's own, ``lse`` receives each request's log-sum-exps, or
    ``token_attention`` what :func:`token_attention` gives, if ``explain`` asks for that instead.
    ``document_states`` are states of documents that are not in the layout, for each of its requests, in parts of
    which one at a time is joined. One that is the only one is ``joined`` with the layout's own too, where attention
    takes nothing else in one call. ``new_states`` receives the layout's own keys and values by name, where they are
    to be stored. A pass through a staged model may start from hidden states, and ends with its last layer's: see
    :func:`staged_model`. ``readings`` receives what every layer sees of the only request's documents, if all are asked.
    ``scoring`` receives what the scoring layer would do, for :mod:`.frozen_scoring`.
    """

    layout: Layout
    config: BlockRankConfig
    implementation: str
    stop: bool = True
    explain: bool = False
    document_states: Sequence[Iterable[StatePack]] | None = None
    joined: bool = True
    new_states: dict[str, Tensor] | None = None
    start: tuple[int, Tensor] | None = None
    hidden: Tensor | None = None
    tuning: Tuning | None = None
    readings: dict[int, LayerReading] | None = None
    scoring: list[Callable[[Pass], None]] | None = None
    lse: list[Lse] = field(default_factory=list)
    token_attention: list[Tensor] = field(default_factory=list)

    @cached_property
    def last_rows(self) -> list[list[LastRows]]:
        """Where each request's query blocks are among its documents' states."""
        pairs = zip(self.layout.requests, self.document_states or (), strict=True)
        positions = self.layout.positions
        return [
            [
                _last_rows(request, slice(*block), runs, list(states), positions, self.joined)
                for block, runs in request.query_blocks
            ]
            for request, states in pairs
        ]


def _last_rows(
    request: RequestBounds,
    block: slice,
    runs: Sequence[int],
    packs: Sequence[StatePack],
    positions: Tensor,
    joined: bool,
) -> LastRows:
    """Where a query block is among its documents' states, as :func:`_with_document_states` joins them."""
    instruction = slice(*request.instruction)
    first = request.instruction[1] - request.instruction[0]
    own, queries = positions[instruction], positions[block]
    lengths = [pack.num_tokens for pack in packs]
    is_one = joined and len(packs) == 1

    def positions_of_all() -> Tensor:
        documents = [first + pack.steps for pack in packs]
        return torch.cat([own, *documents, queries] if is_one else [*documents, own, queries])

    outside = len(own) + len(queries)
    lengths = [outside + lengths[0]] if is_one else [*lengths, outside]
    return LastRows(sum(runs), lengths, positions_of_all, runs)
