from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

HEAD_KEY = "head.key"
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)
_SCALE = ".scale"
_INT8_LEVELS = 127


def key_name(layer: int) -> str:
    """Name of a layer's keys among a document's states."""
    return f"{layer}.key"


def value_name(layer: int) -> str:
    """Name of a layer's values."""
    return f"{layer}.value"


@dataclass(frozen=True, eq=False)
class DocumentStates:
    """What a query block ever reads of one document: keys and values, layer by layer.

    Attributes
    ----------
    ids : tuple of int
        Token ids of the block.
    truncated : bool
        Whether the document was cut.
    tensors : mapping of str to Tensor
        ``[n, heads, head_dim]`` each, for the block's ``n`` tokens; 8-bit ones have a second entry
        ``<name>.scale`` ``[n, heads]``.
    """

    ids: tuple[int, ...]
    truncated: bool
    tensors: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def names(self) -> list[str]:
        """Of the keys and values, whatever dtype they are in."""
        return [name for name in self.tensors if not name.endswith(_SCALE)]

    def nbytes_in(self, dtype: torch.dtype) -> int:
        """Bytes of the keys and values as a model of that dtype reads them."""
        return sum(self.tensors[name].numel() for name in self.names) * dtype.itemsize

    def copy(self) -> DocumentStates:
        """The same in memory of their own, where these may be parts of a mapped file."""
        return replace(self, tensors={name: tensor.clone() for name, tensor in self.tensors.items()})

    def to(self, device: torch.device) -> DocumentStates:
        """The same on a device."""
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})


class StatePack:
    """Documents' states side by side, as one request reads them.

    Parameters
    ----------
    states : sequence of DocumentStates
        At least one.
    """

    def __init__(self, states: Sequence[DocumentStates]) -> None:
        self._states = states
        lengths = torch.tensor([len(one.ids) for one in states])
        self.offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        """``[N + 1]`` int64 on the CPU."""
        self.longest = int(lengths.max())
        """Tokens of the longest document."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return int(self.offsets[-1])

    @property
    def steps(self) -> Tensor:
        """``[n]``: place of every token inside its document."""
        return torch.arange(self.num_tokens) - self.offsets[:-1].repeat_interleave(self.offsets.diff())

    def split(self, budget_tokens: int) -> list[StatePack]:
        """Packs of neighbouring documents, each within a budget unless one alone exceeds it."""
        return list(grouped(self._states, budget_tokens))

    def get(self, name: str, like: Tensor) -> Tensor:
        """``[n, heads, head_dim]`` of all documents, on the device and in the dtype of ``like``."""
        if self._runs:
            return torch.cat([run.get(name, like) for run in self._runs])
        values = self._joined(name).to(like.device)
        if name + _SCALE not in self._states[0].tensors:
            return values.to(like.dtype)
        scales = self._joined(name + _SCALE).to(like.device)
        return (values.to(torch.float32) * scales.to(torch.float32)[..., None]).to(like.dtype)

    @cached_property
    def _runs(self) -> list[StatePack]:
        """Neighbours that can be joined, where not all can: some come from a store, on the host or in 8 bits."""
        runs = [list(same) for _, same in groupby(self._states, _kind)]
        return [StatePack(run) for run in runs] if len(runs) > 1 else []

    def _joined(self, name: str) -> Tensor:
        return torch.cat([one.tensors[name] for one in self._states])


def _kind(states: DocumentStates) -> set[tuple[torch.dtype, torch.device]]:
    """What must be alike in documents whose tensors are joined."""
    return {(tensor.dtype, tensor.device) for tensor in states.tensors.values()}


def grouped(states: Iterable[DocumentStates], budget_tokens: int) -> Iterator[StatePack]:
    """Packs of neighbouring documents, each within a budget unless one alone exceeds it; one at a time."""
    group: list[DocumentStates] = []
    room = budget_tokens
    for one in states:
        if group and len(one.ids) > room:
            yield StatePack(group)
            group, room = [], budget_tokens
        group.append(one)
        room -= len(one.ids)
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
        for one in self._states:
            self.ids.append(one.ids)
            self.truncated.append(one.truncated)
            yield one


class SharedPack(StatePack):
    """States that many queries read: joined once."""

    def __init__(self, states: Sequence[DocumentStates]) -> None:
        super().__init__(states)
        self._made: dict[str, Tensor] = {}

    def _joined(self, name: str) -> Tensor:
        if name not in self._made:  # a race of threads makes it twice, alike
            self._made[name] = super()._joined(name)
        return self._made[name]


def states_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The dtype of that name.

    Raises
    ------
    ValueError
        For one in which states cannot be kept.
    """
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if found not in DTYPES:
        raise ValueError(f"dtype of kept states must be one of {', '.join(map(_name, DTYPES))}, got {dtype!r}")
    return found


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def compress(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """A copy of states in another dtype; ``int8`` keeps one fp16 scale per token and head."""
    if dtype != torch.int8:
        return {name: tensor.to(dtype, copy=True) for name, tensor in tensors.items()}
    compressed = {}
    for name, tensor in tensors.items():
        scale = tensor.abs().amax(-1).float().clamp_min(1e-6) / _INT8_LEVELS
        # Rounded first, so that the rounded scale is the one that is divided by.
        scale = scale.to(torch.float16)
        compressed[name] = (tensor.float() / scale.float()[..., None]).round().clamp(-127, 127).to(torch.int8)
        compressed[name + _SCALE] = scale
    return compressed
