"""The last rows of a sequence whose keys come in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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
    positions : Tensor
        ``[K]`` int64 on the CPU, of every key; sliding windows are measured in it.

    Raises
    ------
    ValueError
        Where the lengths do not fit.
    """

    rows: int
    lengths: Sequence[int]
    positions: Tensor
    plans: dict[Any, Any] = field(default_factory=dict, repr=False)
    """Tables and masks that implementations derive from the rest once and reuse in every layer."""

    def __post_init__(self) -> None:
        """Refuse lengths that do not fit rows and positions."""
        if not self.lengths or not 1 <= self.rows <= self.lengths[-1]:
            raise ValueError(f"the last of the parts must hold the {self.rows} rows, got lengths {list(self.lengths)}")
        if len(self.positions) != sum(self.lengths):
            raise ValueError(f"positions needs {sum(self.lengths)} values, got {len(self.positions)}")
