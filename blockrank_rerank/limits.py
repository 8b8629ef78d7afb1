from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blockrank_rerank.reranker import RankedDocument


@dataclass(frozen=True)
class Limits:
    """Which documents of a ranking are wanted; see :meth:`BlockRankReranker.rank`.

    Raises
    ------
    ValueError
        Naming what is no number, or negative.
    """

    top_k: int | None = None
    threshold: float | None = None
    min_probability: float | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        top_k = self.top_k
        # Integers of numpy have an index, as Python's do; floats have none.
        if top_k is not None and (isinstance(top_k, bool) or not hasattr(top_k, "__index__") or top_k < 0):
            raise ValueError(
                f"top_k must be a number of documents that is not negative, or None for all, got {top_k!r}"
            )
        for name in ("threshold", "min_probability"):
            value = getattr(self, name)
            number = isinstance(value, numbers.Real) and not isinstance(value, bool) and not math.isnan(value)
            if value is not None and not number:
                raise ValueError(f"{name} must be a number or None, got {value!r}")
        if self.min_probability is not None and not 0 <= self.min_probability <= 1:
            raise ValueError(f"min_probability must be in 0..1 or None, got {self.min_probability!r}")

    def select(self, ranked: list[RankedDocument]) -> list[RankedDocument]:
        """The wanted ones of a ranking; limits on scores come before ``top_k``."""
        return [
            document
            for document in ranked
            if (self.threshold is None or document.score >= self.threshold)
            and (self.min_probability is None or (document.probability or 0.0) >= self.min_probability)
        ][: self.top_k]
