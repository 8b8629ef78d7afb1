"""States of blocks under a frozen encoder, each block read once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from blockrank_rerank.model.backbone import Backbone
from blockrank_rerank.model.layout import Layout, RequestBounds, build_layout
from blockrank_rerank.states.cache import StateCache
from blockrank_rerank.states.document_states import DocumentStates
from blockrank_rerank.text.prompt import EncodedRequest

_STATES = "states"
_Block = tuple[str, tuple[int, ...], tuple[int, ...]]


class FrozenStates:
    """The final states of packs, of which every block is read once as long as it is remembered.

    A frozen encoder gives a block the same states whenever it sees the instruction and itself alone, and the
    documents of a training come back in list after list.

    Parameters
    ----------
    backbone : Backbone
        A model with a scoring layer whose query block meets the documents there and nowhere before.
    max_bytes : int
        Most bytes of states to remember, in fp16; the least recently used are forgotten first.
    """

    def __init__(self, backbone: Backbone, max_bytes: int) -> None:
        self._backbone, self._cache = backbone, StateCache(max_bytes)

    @torch.no_grad()
    def of(self, layout: Layout) -> Tensor:
        """``[T, hidden]`` fp32 on the model's device, without a gradient."""
        blocks = [block for request in layout.requests for block in _blocks(layout, request)]
        found = {block: self._cache.get(_key(block)) for block in dict.fromkeys(blocks)}
        known = {block: states.tensors[_STATES] for block, states in found.items() if states is not None}
        known |= self._read([block for block in found if block not in known])
        device = next(self._backbone.parameters()).device
        # Widened first: autocast to bf16 on a CPU joins no tensors in fp16.
        return torch.cat([known[block].to(device, torch.float32) for block in blocks])

    def _read(self, blocks: list[_Block]) -> dict[_Block, Tensor]:
        """Read blocks in one pass, as few requests as they have instructions and queries."""
        if not blocks:
            return {}
        layout = build_layout(list(_requests(blocks)), self._backbone.config.query_offset)
        states = self._backbone.final_states(layout).to("cpu", torch.float16)
        spans = {
            block: span
            for request in layout.requests
            for block, span in zip(_blocks(layout, request), _spans(request), strict=True)
        }
        # A copy each: a view would keep the whole pack.
        read = {block: states[start:end].clone() for block, (start, end) in spans.items()}
        for block in blocks:
            self._cache.put(_key(block), DocumentStates(block[2], False, {_STATES: read[block]}))
        return read


def _spans(request: RequestBounds) -> list[tuple[int, int]]:
    """Where a request's blocks lie: instruction, documents, query."""
    offsets = request.document_offsets.tolist()
    return [request.instruction, *pairwise(offsets), (request.query[0], request.answer[1])]


def _blocks(layout: Layout, request: RequestBounds) -> list[_Block]:
    """What the states of each block of a request depend on: its kind, its instruction, its tokens."""
    instruction, *others = [tuple(layout.input_ids[start:end].tolist()) for start, end in _spans(request)]
    kinds = ["instruction", *["document"] * (len(others) - 1), "query"]
    return [(kind, instruction, ids) for kind, ids in zip(kinds, [instruction, *others], strict=True)]


def _requests(blocks: list[_Block]) -> Iterator[EncodedRequest]:
    """One request for every query, the first of an instruction with all documents that share it."""
    for instruction in dict.fromkeys(block[1] for block in blocks):
        of = [block for block in blocks if block[1] == instruction]
        documents = [list(block[2]) for block in of if block[0] == "document"]
        queries = [list(block[2]) for block in of if block[0] == "query"] or [[]]
        for query in queries:
            yield EncodedRequest(list(instruction), documents, query, [False] * len(documents))
            documents = []


def _key(block: _Block) -> str:
    kind, instruction, ids = block
    return f"{kind} {instruction} {ids}"
