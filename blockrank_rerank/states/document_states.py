"""What a query ever reads of a document: keys and values, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

HEAD_KEY = "head.key"
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)
SCALE = ".scale"
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
    first : int
        Place of the first token in its document: 0, but of a part.
    """

    ids: tuple[int, ...]
    truncated: bool
    tensors: Mapping[str, Tensor]
    first: int = 0

    def part(self, start: int, end: int) -> DocumentStates:
        """Take the states of some tokens, ``end`` exclusive, each as it was read in the whole; copies nothing."""
        tensors = {name: tensor[start:end] for name, tensor in self.tensors.items()}
        return DocumentStates(self.ids[start:end], self.truncated, tensors, self.first + start)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def names(self) -> list[str]:
        """Of the keys and values, whatever dtype they are in."""
        return [name for name in self.tensors if not name.endswith(SCALE)]

    def nbytes_in(self, dtype: torch.dtype) -> int:
        """Bytes of the keys and values as a model of that dtype reads them."""
        return sum(self.tensors[name].numel() for name in self.names) * dtype.itemsize

    def copy(self) -> DocumentStates:
        """Copy the states into memory of their own, where these may be parts of a mapped file."""
        return replace(self, tensors={name: tensor.clone() for name, tensor in self.tensors.items()})

    def to(self, device: torch.device) -> DocumentStates:
        """Move the states to a device."""
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})


def states_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the dtype of that name, in which states can be kept.

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
    """Copy states into another dtype; ``int8`` keeps one fp16 scale per token and head."""
    if dtype != torch.int8:
        return {name: tensor.to(dtype, copy=True) for name, tensor in tensors.items()}
    compressed = {}
    for name, tensor in tensors.items():
        scale = tensor.abs().amax(-1).float().clamp_min(1e-6) / _INT8_LEVELS
        # Rounded first, so that the rounded scale is the one that is divided by.
        scale = scale.to(torch.float16)
        compressed[name] = (tensor.float() / scale.float()[..., None]).round().clamp(-127, 127).to(torch.int8)
        compressed[name + SCALE] = scale
    return compressed
