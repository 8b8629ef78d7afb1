"""Documents' states side by side, as a query reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby, pairwise

import torch
from torch import Tensor

from blockrank_rerank.states.document_states import SCALE, DocumentStates


class StatePack:
    """Documents' states side by side, as one request reads them.

    Parameters
    ----------
    states : sequence of DocumentStates
        At least one.
    """

    def __init__(self, states: Sequence[DocumentStates]) -> None:
        self._states = states
        lengths = torch.tensor([len(document.ids) for document in states], device="cpu")
        self.offsets = torch.cat([torch.zeros(1, dtype=torch.int64, device="cpu"), lengths.cumsum(0)])
        """``[N + 1]`` int64 on the CPU."""
        self.longest = max(document.first + len(document.ids) for document in states)
        """Tokens of the longest document, those before a part included."""

    @property
    def ids(self) -> list[tuple[int, ...]]:
        """Token ids of every document."""
        return [document.ids for document in self._states]

    def tokens_equal(self, token: int) -> Tensor:
        """``[n]`` bool on the CPU: which tokens of all documents are this one."""
        return torch.tensor([number == token for document in self._states for number in document.ids], device="cpu")

    @property
    def truncated(self) -> list[bool]:
        """Whether each document was cut."""
        return [document.truncated for document in self._states]

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return int(self.offsets[-1])

    @property
    def steps(self) -> Tensor:
        """``[n]``: place of every token inside its document."""
        before = self.offsets[:-1] - torch.tensor([document.first for document in self._states], device="cpu")
        return torch.arange(self.num_tokens, device="cpu") - before.repeat_interleave(self.offsets.diff())

    def parts(self, ends: Sequence[Sequence[int]]) -> StatePack:
        """Cut every document after the tokens that its ``ends`` name, ascending and the last one its length."""
        cut = zip(self._states, ends, strict=True)
        return StatePack([states.part(*bounds) for states, last in cut for bounds in pairwise([0, *last])])

    def split(self, budget_tokens: int) -> list[StatePack]:
        """Packs of neighbouring documents, each within a budget unless one alone exceeds it."""
        return list(grouped(self._states, budget_tokens))

    def get(self, name: str, like: Tensor) -> Tensor:
        """``[n, heads, head_dim]`` of all documents, on the device and in the dtype of ``like``."""
        if self._runs:
            return torch.cat([run.get(name, like) for run in self._runs])
        values = self._joined(name).to(like.device)
        if name + SCALE not in self._states[0].tensors:
            return values.to(like.dtype)
        scales = self._joined(name + SCALE).to(like.device)
        return (values.to(torch.float32) * scales.to(torch.float32)[..., None]).to(like.dtype)

    @cached_property
    def _runs(self) -> list[StatePack]:
        """Neighbours that can be joined, where not all can: some come from a store, on the host or in 8 bits."""
        runs = [list(same) for _, same in groupby(self._states, _kind)]
        return [StatePack(run) for run in runs] if len(runs) > 1 else []

    def _joined(self, name: str) -> Tensor:
        return torch.cat([document.tensors[name] for document in self._states])


def _kind(states: DocumentStates) -> set[tuple[torch.dtype, torch.device]]:
    """What must be alike in documents whose tensors are joined."""
    return {(tensor.dtype, tensor.device) for tensor in states.tensors.values()}


def grouped(states: Iterable[DocumentStates], budget_tokens: int) -> Iterator[StatePack]:
    """Packs of neighbouring documents, each within a budget unless one alone exceeds it; one at a time."""
    group: list[DocumentStates] = []
    room = budget_tokens
    for document in states:
        if group and len(document.ids) > room:
            yield StatePack(group)
            group, room = [], budget_tokens
        group.append(document)
        room -= len(document.ids)
    if group:
        yield StatePack(group)


class PassingStates:
    """States that are read once, in their order, and of which only the tokens are remembered.

    Attributes
    ----------
    ids, truncated : list
        Of the documents that went by; see `DocumentStates`.
    """

    def __init__(self, states: Iterator[DocumentStates]) -> None:
        self._states = states
        self.ids: list[tuple[int, ...]] = []
        self.truncated: list[bool] = []

    def __iter__(self) -> Iterator[DocumentStates]:
        for document in self._states:
            self.ids.append(document.ids)
            self.truncated.append(document.truncated)
            yield document


class SharedPack(StatePack):
    """States that many queries read: joined once."""

    def __init__(self, states: Sequence[DocumentStates]) -> None:
        super().__init__(states)
        self._shared: dict[str, Tensor] = {}

    def _joined(self, name: str) -> Tensor:
        if name not in self._shared:  # a race of threads makes it twice, alike
            self._shared[name] = super()._joined(name)
        return self._shared[name]
