"""Segments of a packed sequence, and which tokens each of them may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Segments:
    """The keys that the rows of a packed sequence may see: two intervals for every segment.

    Row ``q`` of segment ``g`` sees ``[context_starts[g], context_ends[g])`` and its own segment,
    up to itself where attention is causal and in both directions where it is not. This one
    sentence is the mask of BlockRank (arXiv 2510.05396, section 3.2).

    Parameters
    ----------
    offsets : Tensor
        ``[G + 1]`` int64 on the CPU. Segment ``g`` holds the packed tokens
        ``offsets[g] … offsets[g + 1] - 1``; the last value is ``T``.
    context_starts, context_ends : Tensor
        ``[G]`` int64 on the CPU. The context lies before the segment; it may be empty.
    positions : Tensor
        ``[T]`` int64 on the CPU, the position of every token; sliding windows are measured in it.

    Raises
    ------
    ValueError
        Where the bounds do not describe a packed sequence.
    """

    offsets: Tensor
    context_starts: Tensor
    context_ends: Tensor
    positions: Tensor
    plans: dict[Any, Any] = field(default_factory=dict, repr=False)
    """Index tables that implementations derive from the bounds once and reuse in every layer."""

    def __post_init__(self) -> None:
        """Refuse bounds that overlap, leave gaps or look ahead."""
        _check_bounds(self)

    @classmethod
    def from_lengths(
        cls, lengths: Sequence[int], contexts: Sequence[tuple[int, int]], positions: Tensor | None = None
    ) -> Segments:
        """Build from the segments' lengths and their ``(start, end)`` contexts, in packed order.

        Without ``positions`` a token's position is its index in the pack.
        """
        offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64, device="cpu")
        torch.cumsum(torch.tensor(lengths, dtype=torch.int64, device="cpu"), 0, out=offsets[1:])
        bounds = torch.tensor(contexts, dtype=torch.int64, device="cpu").reshape(-1, 2)
        if positions is None:
            positions = torch.arange(int(offsets[-1]), device="cpu")
        return cls(offsets, bounds[:, 0].contiguous(), bounds[:, 1].contiguous(), positions)

    @property
    def num_tokens(self) -> int:
        """``T``, the length of the packed sequence."""
        return int(self.offsets[-1])

    @property
    def num_segments(self) -> int:
        """``G``, the number of segments."""
        return len(self.offsets) - 1


def _check_bounds(segments: Segments) -> None:
    offsets, starts, ends = segments.offsets, segments.context_starts, segments.context_ends
    for name in ("offsets", "context_starts", "context_ends", "positions"):
        tensor = getattr(segments, name)
        if tensor.dtype != torch.int64 or tensor.device.type != "cpu" or tensor.dim() != 1:
            raise ValueError(
                f"{name} must be a one-dimensional int64 tensor on the CPU, got "
                f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
            )
    if len(offsets) < 2 or offsets[0] != 0 or bool((offsets.diff() <= 0).any()):
        raise ValueError("offsets must rise strictly from 0, one more value than there are segments")
    if len(starts) != len(offsets) - 1 or len(ends) != len(starts):
        raise ValueError(
            f"context_starts and context_ends need one value for each of the {len(offsets) - 1} segments, "
            f"got {len(starts)} and {len(ends)}"
        )
    if len(segments.positions) != int(offsets[-1]):
        raise ValueError(f"positions needs {int(offsets[-1])} values, got {len(segments.positions)}")
    bad = (starts < 0) | (ends < starts) | (ends > offsets[:-1])
    if bool(bad.any()):
        segment = int(bad.nonzero()[0])
        raise ValueError(
            f"the context of segment {segment} must lie before it: got "
            f"[{int(starts[segment])}, {int(ends[segment])}) for a segment that starts at {int(offsets[segment])}"
        )
