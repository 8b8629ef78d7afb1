"""What a digest takes of a tensor."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

SUMMED = 1 << 18
"""Words of 4 bytes that one sum stands for."""


def tensor_bytes(name: str, tensor: Tensor) -> Iterator[bytes | memoryview]:
    """What a digest of a named tensor takes: its name, dtype and shape, then its values."""
    yield _header(name, tensor)
    # Of at least one dimension: a number without any cannot be viewed as bytes.
    yield tensor.cpu().reshape(-1).view(torch.uint8).numpy().data


def tensor_sums(name: str, tensor: Tensor) -> Iterator[bytes]:
    """What a digest takes of a named tensor that must not leave its device: 8 bytes for 1 MiB of it.

    Sums of its words of 4 bytes, each times an odd number of its place, modulo 2⁶⁴: integers, so that every device has
    the same. One changed word always changes its sum; several changed at random do not by a chance of 2⁻³² at most.
    """
    yield _header(name, tensor)
    values = tensor.reshape(-1).view(torch.uint8)
    if len(values) % 8 or values.storage_offset() % 8:
        values = torch.cat([values, values.new_zeros(-len(values) % 8)])
    # Half as wide as the factors: a sign, the top bit of a word, is then not the top bit of the product, where any two
    # changes would cancel.
    words = values.view(torch.int32)
    factors = _factors(min(SUMMED, len(words)), tensor.device)
    # Of an empty tensor there is one part, whose sum is 0.
    sums = [(part * factors[: len(part)]).sum() for part in words.split(SUMMED)]
    yield torch.stack(sums).cpu().numpy().tobytes()


def _factors(count: int, device: torch.device) -> Tensor:
    """``[count]`` odd int64, spread like random ones; mixed much as in SplitMix64 (doi 10.1145/2660193.2660195)."""
    numbers = torch.arange(1, count + 1, device=device) * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        numbers = (numbers ^ (numbers >> shift)) * factor
    return (numbers ^ (numbers >> 31)) | 1


def _header(name: str, tensor: Tensor) -> bytes:
    return f"{name} {tensor.dtype} {list(tensor.shape)}".encode()
