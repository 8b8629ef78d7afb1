"""A model of the first layers that shares the weights of the whole one, and may go on from where another ended."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

from torch import Tensor, cat
from torch.nn import ModuleList
from torch.nn.functional import pad

from blockrank_rerank.model.families import layers_of, layers_place
from blockrank_rerank.model.layout import RequestBounds


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """What the first layers of a model made of one request, where no block but the instruction was seen by another.

    Attributes
    ----------
    layers : int
        How many they were.
    instruction, query : Tensor
        ``[n, hidden]``, their states after these layers.
    documents : list of Tensor
        The same of every document.
    """

    layers: int
    instruction: Tensor
    documents: list[Tensor]
    query: Tensor

    @classmethod
    def of(cls, layers: int, states: Tensor, bounds: RequestBounds) -> HiddenStates:
        """Take one request's states from those of its pack, ``[T, hidden]``."""
        first, last = bounds.document_offsets[0], bounds.document_offsets[-1]
        documents = list(states[first:last].split(bounds.document_offsets.diff().tolist()))
        return cls(layers, states[slice(*bounds.instruction)], documents, states[slice(*bounds.query)])

    def select(self, documents: Sequence[int]) -> HiddenStates:
        """Take some of the documents, in this order; nothing holds on to the others' states."""
        rows = cat([self.documents[index] for index in documents])
        copies = rows.split([len(self.documents[index]) for index in documents])
        return HiddenStates(self.layers, self.instruction.clone(), list(copies), self.query.clone())

    def split(self, counts: Sequence[int]) -> list[HiddenStates]:
        """Part the documents into so many neighbours each."""
        ends = accumulate(counts)
        return [replace(self, documents=self.documents[end - n : end]) for n, end in zip(counts, ends, strict=True)]

    def rows(self, num_tokens: int) -> Tensor:
        """``[T, hidden]`` for a pack of this request alone, whose padding is 0."""
        rows = cat([self.instruction, *self.documents, self.query])
        return pad(rows, (0, 0, 0, num_tokens - len(rows)))


def join_hidden(parts: Sequence[HiddenStates]) -> HiddenStates:
    """Put the documents of parts of one request one after the other."""
    return replace(parts[0], documents=[document for part in parts for document in part.documents])


def staged_model(model: Any, layers: int) -> Any:
    """Return a model of the first layers that shares the weights of the whole one.

    A pass through it may begin after any layer: where its ``start`` says ``(layers, states)``, these layers are
    skipped and the states go on. What the last layer makes is in the pass's ``hidden`` when it ends.
    """
    staged = _copied(model)
    stage = ModuleList(_staged(layer, index, layers) for index, layer in enumerate(layers_of(model)[:layers]))
    owner, name = layers_place(staged)
    if owner is not staged:
        # The one place of the copy that holds the layers must be a copy too.
        (child,) = [child for child, module in staged.named_children() if module is owner]
        owner = _copied(owner)
        setattr(staged, child, owner)
    setattr(owner, name, stage)
    return staged


def _staged(layer: Any, index: int, layers: int) -> Any:
    staged = _copied(layer)
    staged.forward = partial(_forward, layer, index, layers)
    return staged


def _forward(layer: Any, index: int, layers: int, hidden: Tensor, *args: Any, blockrank: Any, **kwargs: Any) -> Tensor:
    begin, states = blockrank.start or (0, hidden[0])
    if index >= begin:
        hidden = layer(states[None] if index == begin else hidden, *args, blockrank=blockrank, **kwargs)
    if index + 1 == layers:
        blockrank.hidden = hidden[0]
    return hidden


def _copied(module: Any) -> Any:
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied
