"""What a digest takes of a tensor."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def tensor_bytes(name: str, tensor: Tensor) -> Iterator[bytes | memoryview]:
    """What a digest of a named tensor takes: its name, dtype and shape, then its values."""
    yield f"{name} {tensor.dtype} {list(tensor.shape)}".encode()
    # Of at least one dimension: a number without any cannot be viewed as bytes.
    yield tensor.cpu().reshape(-1).view(torch.uint8).numpy().data
