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
class Begun:
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
    def of(cls, layers: int, states: Tensor, bounds: RequestBounds) -> Begun:
        """The states ``[T, hidden]`` of a pack, of one of its requests."""
        first, last = bounds.document_offsets[0], bounds.document_offsets[-1]
        documents = list(states[first:last].split(bounds.document_offsets.diff().tolist()))
        return cls(layers, states[slice(*bounds.instruction)], documents, states[slice(*bounds.query)])

    def kept(self, documents: Sequence[int]) -> Begun:
        """The same request with some of its documents, in this order; nothing holds on to the others' states."""
        rows = cat([self.documents[index] for index in documents])
        own = rows.split([len(self.documents[index]) for index in documents])
        return Begun(self.layers, self.instruction.clone(), list(own), self.query.clone())

    def split(self, counts: Sequence[int]) -> list[Begun]:
        """Consecutive parts with so many documents each."""
        ends = accumulate(counts)
        return [replace(self, documents=self.documents[end - n : end]) for n, end in zip(counts, ends, strict=True)]

    def rows(self, num_tokens: int) -> Tensor:
        """``[T, hidden]`` for a pack of this request alone, whose padding is 0."""
        rows = cat([self.instruction, *self.documents, self.query])
        return pad(rows, (0, 0, 0, num_tokens - len(rows)))


def joined(parts: Sequence[Begun]) -> Begun:
    """Parts of one request, one after the other."""
    return replace(parts[0], documents=[one for part in parts for one in part.documents])


def staged_model(model: Any, layers: int) -> Any:
    """A model of the first layers that shares the weights of the whole one.

    A pass through it may begin after any layer: where its ``begun`` says ``(layers, states)``, these layers are
    skipped and the states go on. What the last layer makes is left in the pass's ``left``, where it comes to its end.
    """
    staged = _copied(model)
    own = ModuleList(_staged(layer, index, layers) for index, layer in enumerate(layers_of(model)[:layers]))
    owner, name = layers_place(staged)
    if owner is not staged:
        # The one place of the copy that holds the layers must be a copy too.
        (place,) = [place for place, child in staged.named_children() if child is owner]
        owner = _copied(owner)
        setattr(staged, place, owner)
    setattr(owner, name, own)
    return staged


def _staged(layer: Any, index: int, layers: int) -> Any:
    staged = _copied(layer)
    staged.forward = partial(_forward, layer, index, layers)
    return staged


def _forward(layer: Any, index: int, layers: int, hidden: Tensor, *args: Any, blockrank: Any, **kwargs: Any) -> Tensor:
    begin, states = blockrank.begun or (0, hidden[0])
    if index >= begin:
        hidden = layer(states[None] if index == begin else hidden, *args, blockrank=blockrank, **kwargs)
    if index + 1 == layers:
        blockrank.left = hidden[0]
    return hidden


def _copied(module: Any) -> Any:
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied
