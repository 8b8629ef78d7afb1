"""The last rows of a sequence whose keys come in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LastRows:
    """The last rows of a sequence whose keys come in parts: a query block over stored states.

    Parameters
    ----------
    rows : int
        ``R``. Their own keys are the last ones of the last part.
    lengths : sequence of int
        Keys of each part, in the sequence's order; together ``K``.
    make_positions : callable
        Makes ``[K]`` int64 on the CPU, the position of every key. Sliding windows are measured in it. Of a long list it
        is large, so it is made for layers with a window alone, and once.
    runs : sequence of int
        Lengths of the blocks into which the rows fall, in order: a row sees its own block and everything before the
        rows. One block of all rows if not given.

    Raises
    ------
    ValueError
        Where the lengths do not fit.
    """

    rows: int
    lengths: Sequence[int]
    make_positions: Callable[[], Tensor]
    runs: Sequence[int] = ()
    plans: dict[Any, Any] = field(default_factory=dict, repr=False)
    """Tables and masks that implementations derive from the rest once and reuse in every layer."""

    def __post_init__(self) -> None:
        """Refuse lengths that do not fit rows."""
        if not self.lengths or not 1 <= self.rows <= self.lengths[-1]:
            raise ValueError(f"the last of the parts must hold the {self.rows} rows, got lengths {list(self.lengths)}")
        if self.runs and (min(self.runs) < 1 or sum(self.runs) != self.rows):
            raise ValueError(f"runs must be lengths above 0 that sum to the {self.rows} rows, got {list(self.runs)}")

    @property
    def run_ids(self) -> Tensor:
        """``[n]`` int64 on the CPU: the block of each key of the last part, and -1 of those before the rows."""
        lengths = torch.tensor([self.lengths[-1] - self.rows, *(self.runs or [self.rows])], device="cpu")
        return torch.arange(-1, len(lengths) - 1, device="cpu").repeat_interleave(lengths)

    @cached_property
    def positions(self) -> Tensor:
        """Position of every key; raises ValueError where there are more or fewer than keys."""
        positions = self.make_positions()
        if len(positions) != sum(self.lengths):
            raise ValueError(f"positions needs {sum(self.lengths)} values, got {len(positions)}")
        return positions
